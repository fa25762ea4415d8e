"""The composition of docker-compose.yml on stand-in images, under a name of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.server import Running
from tests.support.servers import REPOSITORY, free_port, opa_path

FILES = ("docker-compose.yml", "deploy/compose.standin.yml")
STANDINS = ("python", "postgres", "redis", "opa")
BUILD_SECONDS = 1200
COMMAND_SECONDS = 300


def require_engine() -> None:
    """Skip, saying what is missing. CI does not require an engine, so this never fails there."""
    reason = _missing()
    if reason is not None:
        pytest.skip(f"THE COMPOSITION WAS NOT TESTED: {reason}; see docs/howto/operator/deploy.md")


@dataclass(frozen=True, slots=True)
class Composition:
    """A running composition; every command goes to this project alone."""

    project: str
    environment: dict[str, str]
    gateway: Running

    def compose(self, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """Standard output of one `docker compose` command; a failure carries its errors."""
        files = [word for name in FILES for word in ("--file", name)]
        command = ["docker", "compose", "--project-name", self.project, *files, *words]
        return _run(command, self.environment, seconds)

    def containers(self) -> list[dict[str, Any]]:
        """What the engine says of every container, the finished ones too."""
        ids = self.compose("ps", "--all", "--quiet").split()
        found: list[dict[str, Any]] = json.loads(_run(["docker", "inspect", *ids], None, 60))
        return found

    def containers_of(self, service: str) -> list[dict[str, Any]]:
        """The containers of one service."""
        label = "com.docker.compose.service"
        return [each for each in self.containers() if each["Config"]["Labels"][label] == service]

    def sql(self, statement: str) -> list[str]:
        """Rows of the composition's database, columns parted by a bar."""
        ask = ["psql", "--username=gateway", "--dbname=gateway", "--no-align", "--tuples-only"]
        told = self.compose("exec", "--no-TTY", "postgres", *ask, "--command", statement)
        return told.splitlines()

    def networks(self) -> dict[str, bool]:
        """Every network by its name in the file, and whether it is internal."""
        label = f"label=com.docker.compose.project={self.project}"
        ids = _run(["docker", "network", "ls", "--quiet", "--filter", label], None, 60).split()
        details = json.loads(_run(["docker", "network", "inspect", *ids], None, 60))
        return {each["Labels"]["com.docker.compose.network"]: each["Internal"] for each in details}


@contextmanager
def composition(folder: Path, *, workers: int) -> Iterator[Composition]:
    """Build, start and wait for health; take everything away at the end, volumes included."""
    port = free_port()
    environment = {
        "SECRETS": str(folder / "secrets"),
        "GATEWAY_ADDRESS": f"127.0.0.1:{port}",
        "ADMIN_EMAIL": "admin@compose.example",
    }
    _run(["deploy/secrets.sh"], environment, 60)
    password = (folder / "secrets" / "admin_password").read_text(encoding="ascii")
    running = Running(
        f"http://127.0.0.1:{port}", environment["ADMIN_EMAIL"], password, folder / "compose.log"
    )
    project = f"privacy-gateway-test-{secrets.token_hex(4)}"
    made = Composition(project, environment, running)
    try:
        _run(["deploy/standin/build.sh"], _opa(), BUILD_SECONDS)
        made.compose("build", "--quiet", seconds=BUILD_SECONDS)
        made.compose("up", "--detach", "--wait", "--scale", f"worker={workers}")
        yield made
    finally:
        running.log.write_text(made.compose("logs", "--no-color"), encoding="utf-8")
        made.compose("down", "--volumes", "--timeout", "20")


def _missing() -> str | None:
    """What this machine lacks, or None."""
    if shutil.which("docker") is None:
        return "`docker` is not installed"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if done.returncode:
            return f"`{' '.join(command)}` fails (is dockerd running?)"
    names = [f"privacy-gateway-standin/{name}" for name in STANDINS]
    images = subprocess.run(
        ["docker", "image", "inspect", *names], capture_output=True, check=False
    )
    if images.returncode and (os.geteuid() != 0 or shutil.which("debootstrap") is None):
        return "making the stand-in images needs debootstrap and root"
    return None if opa_path() else "there is no `opa`; `make servers` builds it"


def _opa() -> dict[str, str]:
    return {"OPA_BINARY": str(Path(opa_path() or "").resolve())}


def _run(command: list[str], extra: dict[str, str] | None, seconds: float) -> str:
    """Standard output; on failure the last words of both streams."""
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **(extra or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    words = " ".join(command)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
