"""A PostgreSQL that can be killed and started again, and a network that can go silent."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kit.process import spawn, stop
from tests.support.servers import (
    _unprivileged,
    free_port,
    missing,
    postgres_binaries,
    wait_until,
)


class Cluster:
    """One durable server of its own; only its own processes are ever signalled.

    Args:
        folder: of the data, the log, and nothing else.
        settings: server settings besides the usual ones.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        binaries = postgres_binaries()
        if binaries is None:
            missing("PostgreSQL")
        assert binaries is not None
        self._binaries, self._folder, self._data = binaries, folder, folder / "pg"
        self._data.mkdir(parents=True)
        self._run_as: dict[str, Any] = _unprivileged(self._data)
        self.port = free_port()
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on",
        } | settings
        self._server: subprocess.Popen[bytes] | None = None
        made = subprocess.run(
            [binaries / "initdb", "-D", self._data, "-U", "gateway", "-A", "trust", "-E", "UTF8"],
            check=False,
            capture_output=True,
            text=True,
            cwd=self._data,
            **self._run_as,
        )
        assert made.returncode == 0, made.stderr

    @property
    def url(self) -> str:
        """Superuser's URL."""
        return f"postgresql://gateway@127.0.0.1:{self.port}/postgres"

    def own(self, folder: Path) -> None:
        """Give a folder to the server's user."""
        if "user" in self._run_as:
            os.chown(folder, self._run_as["user"], self._run_as["group"])

    def start(self) -> None:
        """Start, and again while children of a killed server still hold its memory."""
        wait_until(self._starts, what="PostgreSQL")

    def _starts(self) -> bool:
        options = [
            word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")
        ]
        with (self._folder / "postgres.log").open("ab") as log:
            self._server = spawn(
                [str(self._binaries / "postgres"), "-D", str(self._data), *options],
                stdout=log,
                stderr=log,
                cwd=self._data,
                **self._run_as,
            )
        wait_until(lambda: self.ready() or not self.running(), what="an answer of PostgreSQL")
        return self.ready()

    def ready(self) -> bool:
        """Whether it takes connections."""
        command = [
            str(self._binaries / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        return subprocess.run(command, check=False).returncode == 0

    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._server is not None and self._server.poll() is None

    def kill(self, *, all_at_once: bool) -> None:
        """SIGKILL to the postmaster alone, or to it and its children in one go."""
        assert self._server is not None
        if all_at_once:
            # The postmaster leads a session of its own; its backends lead theirs.
            for pid in [*self._backends(), self._server.pid]:
                with suppress(ProcessLookupError):  # a backend may end in between
                    os.kill(pid, signal.SIGKILL)
        else:
            self._server.send_signal(signal.SIGKILL)
        self._server.wait()

    def _backends(self) -> list[int]:
        assert self._server is not None
        task = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children")
        return [int(pid) for pid in task.read_text(encoding="ascii").split()]

    def close(self) -> None:
        """Stop, if it still runs."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            stop(self._server, grace_seconds=20)


@contextmanager
def cluster(folder: Path, **settings: str) -> Iterator[Cluster]:
    """A started server until the block ends."""
    made = Cluster(folder, **settings)
    try:
        made.start()
        yield made
    finally:
        made.close()


class Network:
    """A TCP relay to a server that can swallow what passes, in one direction or both."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.to_server, self.to_client = threading.Event(), threading.Event()
        self.heal()
        self._closing = threading.Event()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self, *, requests: bool = True, answers: bool = True) -> None:
        """From now on nothing arrives, and no end is told."""
        if requests:
            self.to_server.clear()
        if answers:
            self.to_client.clear()

    def heal(self) -> None:
        """New connections pass again; what was swallowed is lost."""
        self.to_server.set()
        self.to_client.set()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._sockets += [near, far]
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        """One connection; once it has lost a byte it is lost altogether, and stays silent."""
        lost = False
        with selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, (far, self.to_server))
            selector.register(far, selectors.EVENT_READ, (near, self.to_client))
            while not self._closing.is_set():
                for key, _ in selector.select(0.05):
                    other, passes = key.data
                    try:
                        read = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        lost = lost or not passes.is_set()
                        if lost and not read:
                            return
                        if not lost and not read:
                            near.close()
                            far.close()
                            return
                        if not lost:
                            other.sendall(read)
                    except OSError:
                        return

    def close(self) -> None:
        """Stop relaying."""
        self._closing.set()
        self._listener.close()
        for each in self._sockets:
            each.close()


@contextmanager
def network(port: int) -> Iterator[Network]:
    """A relay to `port` until the block ends."""
    made = Network(port)
    try:
        yield made
    finally:
        made.close()


def through(url: sa.URL, network: Network) -> str:
    """The same database, reached through the relay."""
    return url.set(host="127.0.0.1", port=network.port).render_as_string(hide_password=False)
