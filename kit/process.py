"""Children that cannot outlive their parent, and free ports.

Linux tells a child of its parent's death by PR_SET_PDEATHSIG; elsewhere the supervisor's own
shutdown must do. Nothing here may be used to run a researcher's words.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: a library must not be opened between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL at the parent's death; call between fork and exec."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """`Popen` of a child that dies with the calling thread's process, in its own session.

    The kernel signals at the death of the *thread* that forked, so call this from a thread that
    lives as long as the child shall.
    """
    return subprocess.Popen(
        list(command),
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, loaded before the fork
        start_new_session=True,
        **options,
    )


def stop(child: subprocess.Popen[bytes], *, grace_seconds: float = 5.0) -> int:
    """SIGTERM, then SIGKILL after the grace; returns the exit code."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The parent's environment and `extra`; for trusted children only."""
    return {**os.environ, **extra}
