"""The worker's end of the warm parent: ask it for a child, watch over it, start it again.

The parent (`worker.training.zygote`) has TensorFlow imported and forks a sandbox in milliseconds.
It is an executed process with an empty environment like any sandbox; over its one socket go
descriptors, numbers and process handles. A child is held by a pidfd, so that a signal can never hit
a stranger. When the parent dies its children die, and the next request starts another one. Nothing
of a job but its descriptors and limits may pass here: the job itself goes through the child's pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from kit import confinement, log
from worker.start import Child, Ends, launch
from worker.training.confine import Bounds

# Descriptors in the child begin here: its two pipe ends, then the files (`worker.training.zygote`).
_FIRST_FILE = 5
_MESSAGE_BYTES = 1 << 12

_log = log.get("worker")


class Forked:
    """A grandchild of this process, held by its pidfd."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._gone = False
        self.pid = _pid_behind(handle)

    def kill(self) -> None:
        """End it, unless it is gone."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._gone:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self) -> None:
        """Until it is gone; its parent reaps it."""
        if self._gone:
            return
        select.select([self._handle], [], [])
        with self._lock:
            self._gone = True
            os.close(self._handle)


class Zygote:
    """A way to begin (see `worker.start.Start`): fork a warm parent. Safe from any thread."""

    def __init__(self, *, log_path: Path | None = None, bubblewrap: bool = False) -> None:
        """Prepare, without starting.

        Args:
            log_path: file for the parent's own error text, operator only.
            bubblewrap: put namespaces around it where that works.
        """
        self._log_path = log_path
        self._bubblewrap = bubblewrap
        self._process: subprocess.Popen[bytes] | None = None
        self._peer: socket.socket | None = None
        self._ready = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the parent (or bubblewrap's around it), None where there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the parent without waiting for it; call from a thread that lives as long as it.

        Raises:
            OSError: this machine cannot close a sandbox, or start a process.
        """
        with self._lock:
            self._start()

    def __call__(self, bounds: Bounds, ends: Ends, *, deadline: float) -> tuple[Child, list[int]]:
        """Fork a child; see `worker.start.Start`. A parent that died is started again, once."""
        with self._lock:
            for again in (True, False):
                try:
                    self._start()
                    return self._fork(bounds, ends, deadline), self._numbers(ends)
                except (ConnectionError, EOFError) as error:
                    _log.warning("zygote_lost", again=again)
                    self._end()
                    if not again:
                        raise OSError("the parent of sandboxes ends by itself") from error
        raise AssertionError

    def close(self) -> None:
        """End the parent, and with it its children."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        if self._process is not None:
            return
        if missing := confinement.lacking():
            raise OSError(f"this machine cannot close a sandbox: no {', '.join(missing)}")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, _opened(self._log_path) as log_file:
            try:
                self._process = launch(
                    ["zygote", str(theirs.fileno())],
                    [theirs.fileno()],
                    log_file,
                    bubblewrap=self._bubblewrap,
                )
            except OSError:
                ours.close()
                raise
        self._peer, self._ready = ours, False
        _log.info("zygote_started", pid=self._process.pid)

    def _fork(self, bounds: Bounds, ends: Ends, deadline: float) -> Forked:
        if not self._ready:
            self._ready = self._hear(deadline)[0].get("ready") is True
            if not self._ready:
                raise ConnectionError
        assert self._peer is not None  # noqa: S101 - `_start` made it
        request = json.dumps({"bounds": bounds.as_dict()}).encode()
        socket.send_fds(self._peer, [request], [ends.read, ends.write, ends.log, *ends.files])
        _, handles = self._hear(deadline)
        if len(handles) != 1:
            raise ConnectionError
        return Forked(handles[0])

    def _hear(self, deadline: float) -> tuple[dict[str, Any], list[int]]:
        """One message of the parent.

        Raises:
            EOFError: it is gone.
            OSError: nothing came by the deadline; the parent is ended.
        """
        assert self._peer is not None  # noqa: S101 - `_start` made it
        self._peer.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            message, handles, _, _ = socket.recv_fds(self._peer, _MESSAGE_BYTES, 1)
        except TimeoutError:
            self._end()
            raise
        if not message:
            raise EOFError
        return json.loads(message), handles

    def _numbers(self, ends: Ends) -> list[int]:
        return list(range(_FIRST_FILE, _FIRST_FILE + len(ends.files)))

    def _end(self) -> None:
        if self._peer is not None:
            self._peer.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = self._peer = None


def _pid_behind(handle: int) -> int:
    """The process id behind a pidfd in this process's own namespace."""
    text = Path(f"/proc/self/fdinfo/{handle}").read_text(encoding="ascii")
    return int(text.partition("Pid:")[2].split()[0])


def _opened(path: Path | None) -> Any:
    if path is None:
        return Path(os.devnull).open("wb")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "ab")
