"""The program in the sandbox: answers framed commands until its coordinator is gone.

Before anything heavy is imported it gives up what it does not need: new privileges, core dumps,
its life beyond its parent's. It keeps no file, opens no connection and answers errors with one of
three codes; the text of an error goes to the operator's log alone.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import threading
import traceback
from typing import Any

from worker.frames import Channel, PeerGone

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_FRAME_BYTES = 1 << 33


def main(arguments: list[str]) -> int:
    """Serve the coordinator `parent` over the two given pipe ends; 0 when it hung up."""
    parent, read_fd, write_fd = map(int, arguments)
    _tie_to(parent)
    threading.Thread(target=_watch, args=(write_fd,), daemon=True).start()
    channel = Channel(read_fd, write_fd, max_bytes=_FRAME_BYTES)
    try:
        _serve(channel)
    except PeerGone:
        return 0
    return 1


def _serve(channel: Channel) -> None:
    """Commands one by one; the first failure ends the process."""
    header, _ = channel.receive()
    session: Any = None
    while True:
        try:
            if session is None:
                session = _configure(header)
                answer, arrays = {"ok": True}, []
            else:
                header, received = channel.receive()
                answer, arrays = session.answer(header, received)
        except PeerGone:
            raise
        except MemoryError:
            _give_up(channel, "out_of_memory")
            return
        except Exception as error:
            _give_up(channel, _code_of(error, configured=session is not None))
            return
        channel.send(answer, arrays)


def _configure(header: dict[str, Any]) -> Any:
    """Limits first, then the framework, then the model."""
    limits = header["limits"]
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _limit(resource.RLIMIT_CPU, limits["cpu_seconds"])
    _limit(resource.RLIMIT_AS, limits["memory_bytes"])
    _limit(resource.RLIMIT_NOFILE, 64)
    # A full log must not end a job by a signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    from worker.training.session import Session

    return Session(header["task"], header["stores"])


def _tie_to(parent: int) -> None:
    """Die with the parent, gain nothing by exec."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(3)


def _watch(write_fd: int) -> None:
    """End at once when the coordinator's end of the pipe closes, even inside a long operation."""
    poll = select.poll()
    poll.register(write_fd, 0)
    while True:
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll()):
            os._exit(0)


def _limit(kind: int, value: int) -> None:
    """Lower a limit for good."""
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def _code_of(error: Exception, *, configured: bool) -> str:
    """One of three codes; TensorFlow's own out-of-memory error is known by its name."""
    # A full log must not turn one code into another.
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    if type(error).__name__ == "ResourceExhaustedError":
        return "out_of_memory"
    return "training_failed" if configured else "model_failed"


def _give_up(channel: Channel, code: str) -> None:
    channel.send({"ok": False, "code": code})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
