"""A logger made at import time follows the configuration of the process, redaction included."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
from kit import log
logger = log.get("room")
log.configure("INFO")
logger.info("said", password="hunter2", job="job_1")
logger.debug("unsaid")
"""


def test_a_logger_made_before_the_configuration_redacts_and_writes_json() -> None:
    """Modules ask for their logger while they are imported, before `configure` can run."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert (said["event"], said["room"], said["job"]) == ("said", "room", "job_1")
    assert said["password"] == "[redacted]"
    assert done.stdout == ""


GONE = """
import os, sys
from kit import log
log.configure("INFO")
logger = log.get("room")
logger.info("read")
read, write = os.pipe()
os.dup2(write, 2)
os.close(write)
os.close(read)
logger.info("unread")
sys.stderr = open(os.devnull, "w")
sys.stderr.close()
logger.info("closed")
print("alive")
"""


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", GONE], check=True, capture_output=True, text=True)

    assert done.stdout == "alive\n"
    assert len(done.stderr.splitlines()) == 1
