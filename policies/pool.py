"""A few child processes that may die at any time, behind a call with a deadline.

A child serves one request at a time; one that is late or broken is killed and replaced, so the next
caller meets a fresh one. This module knows frames and processes, nothing of Rego, and must never
wait longer than it was told.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from policies.errors import EngineFailed, Fault

STARTUP_SECONDS = 10.0
REQUESTS_PER_CHILD = 20_000
LARGEST_FRAME = 64 * 1024 * 1024
_ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    "LC_ALL": "C.UTF-8",
    "RUST_BACKTRACE": "0",
    # The engine's allocator otherwise reserves 1 GiB of address space at once, in KiB.
    "MIMALLOC_ARENA_RESERVE": "16384",
}


class Child:
    """One process with its pipes; not thread-safe, the pool hands it to one caller at a time."""

    def __init__(self, memory_bytes: int) -> None:
        self.served = 0
        self._ready = False
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-B", "-m", "policies.child", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            bufsize=0,
        )
        if process.stdin is None or process.stdout is None:
            raise OSError("a child process without pipes")
        self.process, self._requests, self._answers = process, process.stdin, process.stdout
        for stream in (self._requests, self._answers):
            os.set_blocking(stream.fileno(), False)

    def greet(self) -> None:
        """Wait for a new process to be ready; a no-op afterwards."""
        if self._ready:
            return
        self._read_message(time.monotonic() + STARTUP_SECONDS)
        self._ready = True

    def exchange(
        self, header: dict[str, Any], payload: bytes, deadline: float
    ) -> tuple[dict[str, Any], bytes]:
        """Send one request and wait for its answer until `deadline` (monotonic seconds).

        Raises:
            EngineFailed: `timeout`, or `crashed` when the process ends.
        """
        self.served += 1
        seconds = max(deadline - time.monotonic(), 0.001)
        text = json.dumps(header | {"seconds": seconds}).encode()
        frames = struct.pack(">I", len(text)) + text + struct.pack(">I", len(payload)) + payload
        self._write(frames, deadline)
        return self._read_message(deadline)

    def kill(self) -> None:
        """End the process at once and reap it."""
        self.process.kill()
        self._requests.close()
        self._answers.close()
        self.process.wait()

    def _read_message(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        header = json.loads(self._read_frame(deadline))
        return header, self._read_frame(deadline)

    def _read_frame(self, deadline: float) -> bytes:
        (length,) = struct.unpack(">I", self._read(4, deadline))
        if length > LARGEST_FRAME:
            raise EngineFailed(Fault.CRASHED, "the engine process sent an impossible frame")
        return self._read(length, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        descriptor = self._answers.fileno()
        chunks: list[bytes] = []
        while count:
            _wait(descriptor, select.POLLIN, deadline)
            chunk = os.read(descriptor, min(count, 1 << 20))
            if not chunk:
                raise EngineFailed(Fault.CRASHED, self._last_words())
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    def _write(self, data: bytes, deadline: float) -> None:
        descriptor = self._requests.fileno()
        view = memoryview(data)
        while view:
            _wait(descriptor, select.POLLOUT, deadline)
            try:
                view = view[os.write(descriptor, view) :]
            except BrokenPipeError as error:
                raise EngineFailed(Fault.CRASHED, self._last_words()) from error

    def _last_words(self) -> str:
        try:
            status = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "the engine process closed its pipe"
        if status >= 0:
            return f"the engine process ended with status {status}"
        return f"the engine process was ended by {signal.Signals(-status).name}"


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise EngineFailed(Fault.TIMEOUT, "no answer before the deadline")


class Pool:
    """At most `processes` children, made when first needed.

    Args:
        processes: how many evaluations run at the same time.
        memory_bytes: address space of each child beyond what it needs to start.
    """

    def __init__(self, processes: int, memory_bytes: int) -> None:
        self._memory = memory_bytes
        self._changed = threading.Condition()
        self._idle: list[Child] = []
        self._slots = processes
        self._closed = False

    def borrow(self, deadline: float) -> Lease:
        """A child for one caller until it leaves the `with` block.

        Raises:
            EngineFailed: `busy` when none is free before `deadline`, `unreachable` when closed.
        """
        with self._changed:
            while not self._closed and not self._idle and self._slots == 0:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise EngineFailed(Fault.BUSY, "every engine process is busy")
            if self._closed:
                raise EngineFailed(Fault.UNREACHABLE, "the engine is closed")
            if self._idle:
                return Lease(self, self._idle.pop())
            self._slots -= 1
        try:
            return Lease(self, Child(self._memory))
        except OSError as error:
            self.give_back(None)
            raise EngineFailed(Fault.UNREACHABLE, f"no engine process: {error}") from error

    def give_back(self, child: Child | None) -> None:
        """Return a healthy child, or None for one that is gone."""
        with self._changed:
            keep = child is not None and not self._closed and child.served < REQUESTS_PER_CHILD
            if child is not None and keep:
                self._idle.append(child)
            else:
                self._slots += 1
            self._changed.notify()
        if child is not None and not keep:
            child.kill()

    def close(self) -> None:
        """End every idle child; busy ones end when their caller is done."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._slots += len(idle)
            self._changed.notify_all()
        for child in idle:
            child.kill()

    def pids(self) -> list[int]:
        """Process ids of the idle children, for diagnosis."""
        with self._changed:
            return [child.process.pid for child in self._idle]


class Lease:
    """The loan of one child: killed on any failure, given back otherwise."""

    def __init__(self, pool: Pool, child: Child) -> None:
        self._pool = pool
        self._child = child

    def __enter__(self) -> Child:
        try:
            self._child.greet()
        except BaseException:
            self._drop()
            raise
        return self._child

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._pool.give_back(self._child)
        else:
            self._drop()

    def _drop(self) -> None:
        self._child.kill()
        self._pool.give_back(None)
