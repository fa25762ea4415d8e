"""`up` for real: it gets ready, ends in order, restarts its parts, and leaves no orphan behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway import supervisor
from gateway.settings import GatewaySettings
from privacy_gateway.errors import Refused
from tests.support.servers import REPOSITORY, wait_until

PASSWORD = "a password for the test"
WORKER = r"-m worker(?!\.)|celeryd: "
"""Celery gives itself a title where it can; its sandboxes are `-m worker.training`."""


class Up:
    """A running `up`, its output, and the processes below it."""

    def __init__(self, state: Path, **extra: str) -> None:
        self.state = state
        path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "client")])
        plain = {name: text for name, text in os.environ.items() if not name.endswith("_URL")}
        with (state.parent / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "up", "--port", "0", "--state", str(state)],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**plain, "PYTHONPATH": path, **extra},
                start_new_session=True,
            )
        self.lines: list[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode().strip())
            if self.lines[-1].startswith("ready "):
                self._ready.set()
        self._ready.set()

    def url(self) -> str:
        """The URL of the ready line."""
        assert self._ready.wait(120), "not ready"
        assert self.lines, (self.state.parent / "up.log").read_text()
        assert self.lines[-1].startswith("ready "), self.lines
        return self.lines[-1].removeprefix("ready ")

    def family(self) -> dict[int, str]:
        """Every living process below `up`, by its command line."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (found := _stat(int(entry.name))) is not None:
                parents.setdefault(found[1], []).append(int(entry.name))
        below, new = {}, [self.process.pid]
        while new:
            new = [child for parent in new for child in parents.get(parent, [])]
            below.update({pid: _command(pid) for pid in new})
        return below

    def pid_of(self, pattern: str) -> int:
        """The one process whose command line matches.

        For a moment between fork and exec a child has the command line of its parent.
        """
        found: list[int] = []

        def one() -> bool:
            found[:] = [pid for pid, text in self.family().items() if re.search(pattern, text)]
            return len(found) == 1

        wait_until(one, what=f"one {pattern}")
        return found[0]


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent of a process; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else (state, int(parent))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _all_gone(pids: dict[int, str]) -> None:
    wait_until(lambda: all(_stat(pid) is None for pid in pids), what=f"end of {pids}", seconds=30)


@contextmanager
def _up(state: Path, **extra: str) -> Iterator[Up]:
    running = Up(state, **extra)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and PDEATHSIG")


@linux
@pytest.mark.slow
def test_up_serves_restarts_its_parts_and_ends_in_order(state: Path) -> None:
    admin = {
        "PRIVACY_GATEWAY_ADMIN_EMAIL": "boss@example.org",
        "PRIVACY_GATEWAY_ADMIN_PASSWORD": PASSWORD,
    }
    with _up(state, **admin) as running:
        url = running.url()
        assert running.lines[0] == "admin boss@example.org"
        assert PASSWORD not in "".join(running.lines)
        body = {"email": "boss@example.org", "password": PASSWORD}
        assert _post(f"{url}/v1/login", body) == 200
        parts = httpx.get(f"{url}/readyz", trust_env=False, timeout=30).json()["parts"]
        assert parts["broker"] == parts["database"] == parts["policy"] == "ok"

        for pattern in ("gateway.cli serve", WORKER, r"broker\.sock|redis|valkey"):
            before = running.pid_of(pattern)
            os.kill(before, signal.SIGKILL)
            wait_until(
                lambda old=before, what=pattern: _restarted(running, what, old),
                what=f"restart of {pattern}",
            )
        wait_until(
            lambda: httpx.get(f"{url}/readyz", trust_env=False, timeout=30).status_code == 200,
            what="readiness after the restarts",
        )

        family = running.family()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        _all_gone(family)
    log = (state.parent / "up.log").read_text().splitlines()
    events = [json.loads(line) for line in log if line.startswith("{")]
    stopped = [event["part"] for event in events if event["event"] == "stopped"]
    assert stopped == ["gateway", "worker", "broker"]


def _post(url: str, body: dict[str, str]) -> int:
    """The status; beside a worker that still imports TensorFlow five seconds are not much."""
    return httpx.post(url, json=body, trust_env=False, timeout=30).status_code


def _restarted(running: Up, pattern: str, old: int) -> bool:
    return any(pid != old and re.search(pattern, text) for pid, text in running.family().items())


@linux
@pytest.mark.slow
def test_nothing_survives_a_killed_supervisor_and_the_next_start_goes_on(state: Path) -> None:
    with _up(state) as running:
        running.url()
        assert running.lines[0] == "admin admin@localhost"
        assert running.lines[1].startswith("password ")
        wait_until(lambda: len(running.family()) >= 3, what="all parts")
        family = running.family()
        running.process.kill()
        running.process.wait()
        _all_gone(family)

    with _up(state) as again:
        again.url()
        assert len(again.lines) == 1  # no second administrator, no second password
        family = again.family()
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(60) == 0
        _all_gone(family)


def test_a_taken_port_is_told(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = GatewaySettings(state_dir=state, port=taken.getsockname()[1])
        with pytest.raises(Refused, match="--port"):
            supervisor.run(settings, announce=lambda _url: None)


def test_a_state_directory_has_one_supervisor(state: Path) -> None:
    import fcntl

    state.mkdir()
    with (state / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="another gateway"):
            supervisor.run(GatewaySettings(state_dir=state, port=0), announce=lambda _url: None)


def test_a_part_that_keeps_failing_is_started_later_and_later() -> None:
    part = supervisor.Part("broken", [sys.executable, "-c", "raise SystemExit(3)"], os.environ)
    part.start()
    pauses = []
    for _ in range(3):
        assert part.process is not None
        part.process.wait()
        part.watch()
        pauses.append(part.restart_at)
        assert part.process is None
        part.restart_at = 0.0
        part.watch()
    part.stop()

    assert part.failures == 3
    assert pauses == sorted(pauses)
