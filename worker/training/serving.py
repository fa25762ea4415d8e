"""The conversation of one sandbox: framed commands in, framed answers out, until the peer is gone.

It keeps no file, opens no connection and answers errors with a code; the text of an error goes to
the operator's log alone. The walls must stand before it is called: the first frame already holds
what a researcher wrote.
"""

import contextlib
import os
import select
import threading
import traceback
from typing import Any

from worker.frames import Channel, PeerGone

_FRAME_BYTES = 1 << 33


def serve(read_fd: int, write_fd: int) -> int:
    """Answer the coordinator at the other ends of two pipes; 0 when it hung up."""
    threading.Thread(target=_watch, args=(write_fd,), daemon=True).start()
    try:
        _converse(Channel(read_fd, write_fd, max_bytes=_FRAME_BYTES))
    except PeerGone:
        return 0
    return 1


def refuse(write_fd: int, error: BaseException) -> None:
    """Say that the walls could not be put up, before a word was read."""
    _log(error)
    with contextlib.suppress(PeerGone):
        _give_up(Channel(-1, write_fd, max_bytes=0), "start_failed")


def _converse(channel: Channel) -> None:
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
        # Meanwhile first weights are made elsewhere. What fails here fails again in the round, to
        # which alone it can be answered.
        with contextlib.suppress(Exception):
            session.prepare()


def _configure(header: dict[str, Any]) -> Any:
    """The job's model and stores."""
    from worker.training.session import Session

    return Session(header["task"], header["stores"])


def _watch(write_fd: int) -> None:
    """End at once when the coordinator's end of the pipe closes, even inside a long operation."""
    poll = select.poll()
    poll.register(write_fd, 0)
    while True:
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll()):
            os._exit(0)


def _code_of(error: Exception, *, configured: bool) -> str:
    """One of three codes; TensorFlow's own out-of-memory error is known by its name."""
    _log(error)
    if type(error).__name__ == "ResourceExhaustedError":
        return "out_of_memory"
    return "training_failed" if configured else "model_failed"


def _log(error: BaseException) -> None:
    # A full log must not turn one code into another.
    with contextlib.suppress(OSError):
        traceback.print_exception(error)


def _give_up(channel: Channel, code: str) -> None:
    channel.send({"ok": False, "code": code})
