"""A few child processes that may die at any time, behind a call with a deadline.

A child serves one request at a time; one that is late or broken is killed and replaced, so the next
caller meets a fresh one. This module knows frames and processes, nothing of Rego, and must never
wait longer than it was told.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from policies.child import ANSWER, CHUNK, REQUEST
from policies.errors import EngineFailed, Fault

STARTUP_SECONDS = 10.0
REQUESTS_PER_CHILD = 20_000
LARGEST_ANSWER = 64 * 1024 * 1024
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
        self._poll = select.poll()
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
        self._into, self._from = self._requests.fileno(), self._answers.fileno()
        for descriptor in (self._into, self._from):
            os.set_blocking(descriptor, False)

    def greet(self) -> None:
        """Wait for a new process to be ready; a no-op afterwards."""
        if self._ready:
            return
        self._read_answer(time.monotonic() + STARTUP_SECONDS)
        self._ready = True

    def exchange(self, header: bytes, payload: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Send one request and wait for its answer until `deadline` (monotonic seconds).

        Raises:
            EngineFailed: `timeout`, or `crashed` when the process ends.
        """
        self.served += 1
        seconds = max(deadline - time.monotonic(), 0.001)
        self._write(REQUEST.pack(len(header), len(payload), seconds) + header + payload, deadline)
        return self._read_answer(deadline)

    def kill(self) -> None:
        """End the process at once and reap it."""
        self.process.kill()
        self._requests.close()
        self._answers.close()
        self.process.wait()

    def _read_answer(self, deadline: float) -> tuple[bytes, bytes]:
        """Header and payload; most answers are one read."""
        data = self._read_some(deadline)
        while len(data) < ANSWER.size:
            data += self._read_some(deadline)
        head, size = ANSWER.unpack_from(data)
        body, whole = ANSWER.size + head, ANSWER.size + head + size
        if whole > LARGEST_ANSWER:
            raise EngineFailed(Fault.CRASHED, "the engine process sent an impossible frame")
        if len(data) < whole:
            chunks, missing = [data], whole - len(data)
            while missing > 0:
                chunks.append(self._read_some(deadline))
                missing -= len(chunks[-1])
            data = b"".join(chunks)
        if len(data) > whole:
            raise EngineFailed(Fault.CRASHED, "the engine process said more than was asked")
        return data[ANSWER.size : body], data[body:whole]

    def _read_some(self, deadline: float) -> bytes:
        self._wait(self._from, select.POLLIN, deadline)
        chunk = os.read(self._from, CHUNK)
        if not chunk:
            raise EngineFailed(Fault.CRASHED, self._last_words())
        return chunk

    def _write(self, data: bytes, deadline: float) -> None:
        """A request that fits the pipe is one call; a larger one waits for the child to read."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._into, view) :]
            except BlockingIOError:
                self._wait(self._into, select.POLLOUT, deadline)
            except BrokenPipeError as error:
                raise EngineFailed(Fault.CRASHED, self._last_words()) from error

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        self._poll.register(descriptor, event)
        found = self._poll.poll(left * 1000) if left > 0 else ()
        self._poll.unregister(descriptor)
        if not found:
            raise EngineFailed(Fault.TIMEOUT, "no answer before the deadline")

    def _last_words(self) -> str:
        try:
            status = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "the engine process closed its pipe"
        if status >= 0:
            return f"the engine process ended with status {status}"
        return f"the engine process was ended by {signal.Signals(-status).name}"


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
