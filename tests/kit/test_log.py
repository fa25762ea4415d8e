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
