"""An engine in a process of its own, in whatever environment, asked lap by lap.

Every engine runs at the same lowered priority. Beside the wall clock its processor time is taken,
over all processes below it, because on a shared machine that is what neighbours disturb least. When
an engine is closed nothing of it stays behind, whichever processes it has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NICE = 10
_TICKS = os.sysconf("SC_CLK_TCK")
# Names that let a peer report home or listen to the world are switched off.
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Despite its name this keeps Ray on the loopback interface everywhere.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
}

Vector = npt.NDArray[np.float64]


class EngineFailed(RuntimeError):
    """What an engine said, or the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One round: seconds on the wall, and of processors over all of the engine's processes."""

    seconds: float
    processor_seconds: float


class Engine:
    """The parent's end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; `ready` waits until it answers."""
        reading, writing = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the engine
        self._process = subprocess.Popen(
            ["nice", "-n", str(NICE), *command],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
            env={**os.environ, **_QUIET, **environment, "PEER_ANSWERS": str(writing)},
        )
        os.close(writing)
        self._answers = os.fdopen(reading)
        self.versions: dict[str, str] = {}

    def ready(self) -> None:
        """Wait until the engine is built."""
        self.versions = self._answer()["versions"]

    def turn(self, act: str, times: int = 1) -> Turn:
        """Run some rounds, more than one where a clock would be too coarse; the mean of them."""
        before = processor_seconds(self._process.pid)
        seconds = sum(float(self._ask(act)["seconds"]) for _ in range(times))
        used = processor_seconds(self._process.pid) - before
        return Turn(seconds / times, used / times)

    def total(self, act: str) -> Vector:
        """Run one round and give the sum of the updates, flat, as doubles."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            path = Path(folder) / "sum.npy"
            self._ask(act, path=str(path))
            total: Vector = np.load(path, allow_pickle=False)
        return total

    def close(self) -> None:
        """End it and everything that it has started."""
        family = [self._process.pid, *descendants(self._process.pid)]
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        for number in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._process.wait()
        self._answers.close()
        self._log.close()

    def _ask(self, act: str, **more: str) -> Any:
        assert self._process.stdin is not None
        line = json.dumps({"act": act, **more}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EngineFailed(self._tail()) from None
        return self._answer()

    def _answer(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise EngineFailed(self._tail())
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailed(answer["error"])
        return answer

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace") or "ended without a word"


@contextlib.contextmanager
def engine(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Engine]:
    """Start an engine and wait until it is ready; ended with the block."""
    with engines({"one": command}, environment) as started:
        yield started["one"]


@contextlib.contextmanager
def engines(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str]
) -> Iterator[dict[str, Engine]]:
    """Start several at once and wait until all are ready; ended with the block."""
    with contextlib.ExitStack() as stack:
        started = {}
        for name, command in commands.items():
            started[name] = Engine(command, environment)
            stack.callback(started[name].close)
        for one in started.values():
            one.ready()
        yield started


def processor_seconds(root: int) -> float:
    """User and system time of a process, all processes below it, and those they waited for."""
    total = 0
    for number in (root, *descendants(root)):
        with contextlib.suppress(OSError):
            # utime, stime, cutime and cstime are fields 14 to 17 of proc(5).
            total += sum(int(field) for field in _stat(number)[11:15])
    return total / _TICKS


def descendants(root: int) -> list[int]:
    """Every living process below `root`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _stat(number: int) -> list[str]:
    """Fields of proc(5) stat from the third on; a name may hold spaces and brackets."""
    text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()
