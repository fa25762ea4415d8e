"""The parent of sandboxes: TensorFlow imported once, one forked child for each job.

A fork takes milliseconds where the import takes seconds, and the child shares what the import
filled. Two rules make it work: no operation is ever run here, since TensorFlow's threads would not
survive the fork, and so there is one thread. The process holds no credential and no data: over its
one socket come descriptors, which the child takes over and the parent closes at once.

Every child adds the full walls of `confine` to those of the parent, before it reads a frame. What
children share with one another is the layout of their address space, see the threat model.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
from typing import Any

from worker.training import confine, serving

MESSAGE_BYTES = 1 << 16
# Read end, write end, log; the stores' files come after them. In the child numbered from `FIRST`.
FIXED = 2
FIRST = 3
_PR_SET_PDEATHSIG = 1


def run(socket_fd: int) -> int:
    """Serve fork requests until the worker at the other end is gone.

    A request is `{"bounds": {…}}` with the descriptors read, write, log and the stores' files; the
    answer `{"pid": …}` with a pidfd, or `{"error": …}`. Before the first one `{"ready": true}`.
    """
    peer = socket.socket(fileno=socket_fd)
    tasks = os.open("/proc/self/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        confine.close_files(parent=True)
        _warm_up(tasks)
        confine.seal_parent()
    except OSError as error:
        _tell(peer, {"error": type(error).__name__})
        raise
    _tell(peer, {"ready": True})
    children: dict[int, int] = {}
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in children:
                poll.unregister(descriptor)
                os.waitpid(children.pop(descriptor), 0)
                os.close(descriptor)
            elif (child := _one_request(peer)) is None:
                return 0
            else:
                children[child[1]] = child[0]
                poll.register(child[1], select.POLLIN)


def _warm_up(tasks: int) -> None:
    """Import what every job needs; nothing here may execute an operation."""
    import worker.training.session  # noqa: F401 - TensorFlow

    threads = len(os.listdir(tasks))
    os.close(tasks)
    if threads != 1:
        raise OSError("a thread was started by an import; forking would hang")
    # What is alive now is never collected, so children do not copy its pages to count it.
    gc.collect()
    gc.freeze()


def _one_request(peer: socket.socket) -> tuple[int, int] | None:
    """Fork for one request; process id and pidfd, None when the worker is gone."""
    message, descriptors, _, _ = socket.recv_fds(peer, MESSAGE_BYTES, confine.DESCRIPTORS)
    if not message:
        return None
    own = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(own, message, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    handle = os.pidfd_open(pid)
    _tell(peer, {"pid": pid}, [handle])
    return pid, handle


def _child(parent: int, message: bytes, descriptors: list[int]) -> None:
    """Become a sandbox; never returns."""
    code = 3
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            code = _sandbox(confine.Bounds.parse(json.loads(message)["bounds"]), descriptors)
    finally:
        os._exit(code)


def _sandbox(bounds: confine.Bounds, descriptors: list[int]) -> int:
    os.setsid()
    read_fd, write_fd = _arrange(descriptors)
    try:
        confine.close_files()
        confine.seal(bounds)
    except OSError as error:
        serving.refuse(write_fd, error)
        return 1
    return serving.serve(read_fd, write_fd)


def _arrange(descriptors: list[int]) -> tuple[int, int]:
    """Only the given descriptors stay open, in order from `FIRST`; the log is standard error."""
    spare = confine.DESCRIPTORS * 4
    high = range(spare, spare + len(descriptors))
    for given, place in zip(descriptors, high, strict=True):
        os.dup2(given, place, inheritable=False)
    log = high[FIXED]
    os.dup2(log, 1)
    os.dup2(log, 2)
    kept = [*high[:FIXED], *high[FIXED + 1 :]]
    for place, given in enumerate(kept, FIRST):
        os.dup2(given, place, inheritable=False)
    os.closerange(FIRST + len(kept), 1 << 20)
    return FIRST, FIRST + 1


def _tell(peer: socket.socket, words: dict[str, Any], descriptors: list[int] | None = None) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        socket.send_fds(peer, [json.dumps(words).encode()], descriptors or [])
