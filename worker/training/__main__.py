"""The program in the sandbox, in two shapes: one job by itself, or the parent of many jobs.

`run` locks itself up and serves one coordinator. `zygote` locks itself up, imports TensorFlow, and
forks a child for each request, see `worker.training.zygote`. Neither reads a file, an environment
variable or a line that a researcher had a part in before the walls stand.
"""

import ctypes
import json
import os
import signal
import sys

from worker.training import confine, serving

_PR_SET_PDEATHSIG = 1
UNCONFINED = "--unconfined"


def main(arguments: list[str]) -> int:
    """`run PARENT READ WRITE BOUNDS [--unconfined]` or `zygote PARENT SOCKET`.

    PARENT is a process id to die with; 0 where namespaces hide it and something else kills.
    """
    shape, parent, *rest = arguments
    _tie_to(int(parent))
    if shape == "zygote":
        from worker.training import zygote

        return zygote.run(int(rest[0]))
    read_fd, write_fd = map(int, rest[:2])
    try:
        _lock_up(confine.Bounds.parse(json.loads(rest[2])), unconfined=UNCONFINED in rest)
    except OSError as error:
        serving.refuse(write_fd, error)
        return 1
    return serving.serve(read_fd, write_fd)


def _lock_up(bounds: confine.Bounds, *, unconfined: bool) -> None:
    """Files away, framework in, everything else away; only the operator can make it less."""
    if not unconfined:
        confine.close_files()
    import worker.training.session  # noqa: F401 - TensorFlow, before the walls are complete

    if unconfined:
        confine.limit(bounds)
    else:
        confine.seal(bounds)


def _tie_to(parent: int) -> None:
    """Die with the parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
