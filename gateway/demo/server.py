"""The demo's gateway: the same `privacy-gateway up` a person would type, as a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway import auth
from kit.process import environment, free_port, spawn, stop
from privacy_gateway.errors import Refused

ADMIN = "admin@demo.example"
_MARK = "made-by-demo"


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that answers at `url`, and its administrator."""

    url: str
    email: str
    password: str
    log: Path


def fresh_state(folder: Path) -> Path:
    """An empty state directory; only a directory that a demo made before is ever removed.

    Raises:
        Refused: `conflict` when the folder holds somebody's state.
    """
    if folder.exists():
        if not (folder / _MARK).exists() and any(folder.iterdir()):
            raise Refused("conflict", f"{folder} is not a demo's; choose another with --state")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    return folder


@contextmanager
def gateway(state: Path) -> Iterator[Running]:
    """Start `up`, wait for its ready line, stop it at the end."""
    password = auth.generate_password()
    extra = {
        "PRIVACY_GATEWAY_ADMIN_EMAIL": ADMIN,
        "PRIVACY_GATEWAY_ADMIN_PASSWORD": password,
        # The demo shows the embedded default, whatever the shell is set to.
        **dict.fromkeys(("DATABASE_URL", "REDIS_URL", "OPA_URL"), ""),
    }
    log = state / "gateway.log"
    command = [sys.executable, "-m", "gateway.cli", "up"]
    options = ["--port", str(free_port()), "--state", str(state)]
    with log.open("wb") as errors:
        child = spawn(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(extra),
            cwd=os.getcwd(),  # noqa: PTH109 - relative state directories mean the caller's
        )
    try:
        yield Running(_ready(child, log), ADMIN, password, log)
    finally:
        stop(child, grace_seconds=30)


def _ready(child: subprocess.Popen[bytes], log: Path) -> str:
    """The URL of the `ready` line."""
    assert child.stdout is not None  # noqa: S101 - for mypy; PIPE was asked for
    for line in child.stdout:
        word, _, rest = line.decode().strip().partition(" ")
        if word == "ready":
            return rest
    raise Refused("unavailable", f"the gateway did not start; its log is {log}")
