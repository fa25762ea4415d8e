"""How a sandbox begins: executed afresh here, or forked from a warm parent in `worker.zygote`.

Either way the child gets two pipe ends, a log and read-only descriptors, an environment with
nothing in it but what TensorFlow needs, and walls that it puts up itself before it reads a frame
(`worker.training.confine`). Where bubblewrap works, namespaces are put around that. Nothing here
may hand a child a path of data, a credential or a socket of the worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from typing import IO, Any, Protocol

import privacy_gateway
from kit import allocator, confinement, log
from worker.training import confine
from worker.training.confine import Bounds

UNCONFINED = "--unconfined"
PROGRAM = "worker.training"

_log = log.get("worker")
_IMPORTABLE = (
    Path(__file__).resolve().parent.parent,
    Path(privacy_gateway.__file__).resolve().parent.parent,
)
_PROBE_SECONDS = 10.0
# Of each thread that allocates; four times as much was no faster.
_KEPT_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Ends:
    """Descriptors for one child; they stay the caller's, who closes them after the start.

    Attributes:
        read, write: its ends of the two pipes.
        log: where its error text goes.
        files: the stores, read-only.
    """

    read: int
    write: int
    log: int
    files: Sequence[int] = ()


class Child(Protocol):
    """A started sandbox."""

    @property
    def pid(self) -> int:
        """Process id, as this process sees it."""
        ...

    def kill(self) -> None:
        """End it now; safe from any thread, any number of times."""
        ...

    def wait(self) -> None:
        """Until it is gone."""
        ...


class Start(Protocol):
    """A way to begin."""

    def __call__(self, bounds: Bounds, ends: Ends, *, deadline: float) -> tuple[Child, list[int]]:
        """Start a child.

        Args:
            bounds: its resources.
            ends: its descriptors.
            deadline: `time.monotonic()` by which it must be there.

        Returns:
            The child, and the numbers `ends.files` have in it.

        Raises:
            OSError: it could not be started.
        """
        ...


class Executed:
    """A child of this process, in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Process id; bubblewrap's, where that is around it."""
        return self._process.pid

    def kill(self) -> None:
        """End the whole session."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Reap it."""
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Execute:
    """Import TensorFlow for one job: seconds, and the whole memory, but nothing shared.

    Attributes:
        bubblewrap: put namespaces around it where that works; `pid` is bubblewrap's then.
        insecure: the operator's word that a machine without walls will do.
    """

    bubblewrap: bool = False
    insecure: bool = False

    def __call__(self, bounds: Bounds, ends: Ends, *, deadline: float) -> tuple[Child, list[int]]:
        """Execute `python -m worker.training run`; see `Start`."""
        unconfined = bool(confinement.lacking())
        if unconfined and not self.insecure:
            raise OSError("this machine cannot close a sandbox")
        arguments = [str(ends.read), str(ends.write), json.dumps(bounds.as_dict())]
        passed = (ends.read, ends.write, *ends.files)
        process = launch(
            ["run", *arguments, *([UNCONFINED] if unconfined else [])],
            passed,
            ends.log,
            bubblewrap=self.bubblewrap,
        )
        return Executed(process), list(ends.files)


def launch(
    arguments: list[str], passed: Sequence[int], log_fd: int | IO[Any], *, bubblewrap: bool
) -> subprocess.Popen[bytes]:
    """Execute `python -m worker.training SHAPE PARENT …` with an empty environment.

    Linux tells a child of the death of the *thread* that started it: call from one that lives on.
    """
    around = wrapping() if bubblewrap else ()
    shape, *rest = arguments
    parent = 0 if around else os.getpid()
    return subprocess.Popen(
        [*around, *_python(), "-m", PROGRAM, shape, str(parent), *rest],
        env=environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        pass_fds=tuple(passed),
        start_new_session=True,
    )


@cache
def wrapping() -> tuple[str, ...]:
    """Command line of bubblewrap to put in front; empty where it is absent or not allowed to."""
    program = which("bwrap")
    if program is None or sys.platform != "linux":
        return ()
    seen = [
        Path(sys.prefix) / "bin",
        Path(sys.prefix) / "pyvenv.cfg",
        Path(sys.base_prefix) / "bin",
    ]
    binds = [part for path in (*confine.readable(), *seen) for part in _bind(path)]
    around = (
        *(program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev", *binds, "--chdir", "/", "--"),
    )
    try:
        subprocess.run(
            [*around, *_python(), "-c", "import worker.task"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("bubblewrap_unusable", reason=type(error).__name__)
        return ()
    return around


def environment() -> dict[str, str]:
    """The whole environment of the child: nothing is inherited, and nothing can be written."""
    return {
        "PYTHONPATH": os.pathsep.join(map(str, _IMPORTABLE)),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Below a device nothing can ever be, and nothing is found there.
        "HOME": f"{os.devnull}/home",
        "KERAS_HOME": f"{os.devnull}/keras",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Twice as many clients a processor-second on convolutions; sums still repeat bit for bit.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        # NumPy's own threads would be in the way of a fork.
        "OPENBLAS_NUM_THREADS": "1",
        # A job's process ends with it; until then every round wants the same arrays.
        "GLIBC_TUNABLES": allocator.tunables(_KEPT_BYTES),
        "LANG": "C.UTF-8",
    }


def tasks_of_account() -> int:
    """Threads this account runs already; the limit of a sandbox is counted on top."""
    own, count = os.getuid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == own:
                count += sum(1 for _ in (folder / "task").iterdir())
    return count


def _python() -> list[str]:
    """`-s -P` keep user packages and the working directory out."""
    return [sys.executable, "-s", "-P"]


def _bind(path: Path) -> list[str]:
    made = path.is_relative_to("/proc") or path.is_relative_to("/dev")
    return [] if made else ["--ro-bind-try", str(path), str(path)]
