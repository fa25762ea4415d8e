"""The sandbox program with an attacker inside: real walls, then one probe instead of a model.

For tests only, and outside every package that is installed. It stands in for native code that took
over TensorFlow, so it calls the kernel directly where Python would be too polite.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH120, PTH208, PTH211
from __future__ import annotations

import _thread
import ctypes
import errno
import mmap
import os
import resource
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from worker.frames import Channel
from worker.training import __main__ as program
from worker.training import serving

LIBC = ctypes.CDLL(None, use_errno=True)
NAMESPACES = {
    "time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
    "user": 0x10000000, "pid": 0x20000000, "network": 0x40000000,
}  # fmt: skip
# Calls that must end in a refusal whatever their arguments: x86-64 numbers and arguments.
CALLS: dict[str, tuple[int, ...]] = {
    "ptrace_traceme": (101, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 1),
    "io_uring_setup": (425, 8, 0),
    "io_uring_enter": (426, 0, 1, 0, 0, 0),
    "keyctl": (250, 0, -3, 1),
    "add_key": (248, 0, 0, 0, 0, -3),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "finit_module": (313, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "fsopen": (430, 0, 0),
    "open_tree": (428, -100, 0, 0),
    "pivot_root": (155, 0, 0),
    "chroot": (161, 0),
    "setns": (308, 0, 0),
    "name_to_handle_at": (303, -100, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "process_madvise": (440, 0, 0, 0, 0, 0),
    "kcmp": (312, 1, 1, 0, 0, 0),
    "personality": (135, 0xFFFFFFFF),
    "iopl": (172, 3),
    "ioperm": (173, 0, 1, 1),
    "modify_ldt": (154, 0, 0, 0),
    "memfd_create": (319, 0, 0),
    "memfd_secret": (447, 0),
    "inotify_init1": (294, 0),
    "fanotify_init": (300, 0, 0),
    "timerfd_create": (283, 1, 0),
    "signalfd4": (289, -1, 0, 8, 0),
    "setpriority": (141, 0, 0, -5),
    "sched_setscheduler": (144, 0, 1, 0),
    "sched_setaffinity": (203, 0, 8, 0),
    "syslog": (103, 3, 0, 0),
    "quotactl": (179, 0, 0, 0, 0),
    "acct": (163, 0),
    "reboot": (169, 0, 0, 0, 0),
    "clone3": (435, 0, 0),
    "openat2": (437, -100, 0, 0, 0),
    "vfork": (58,),
    "seccomp": (317, 1, 0, 0),
    "landlock_create_ruleset": (444, 0, 0, 1),
    "setuid": (105, 0),
    "setgid": (106, 0),
    "capset": (126, 0, 0),
    "shmget": (29, 0, 4096, 0o1600),
    "semget": (64, 0, 1, 0o1600),
    "msgget": (68, 0, 0o1600),
    "mq_open": (240, 0, 0, 0, 0),
    "getpid_by_x32_number": (0x40000000 + 39,),
}


def main(arguments: list[str]) -> int:
    """The real program, with `probe` in the place of the conversation."""
    serving.serve = probe
    return program.main(arguments)


def probe(read_fd: int, write_fd: int) -> int:
    """Run the probe that is asked for and tell how the kernel answered."""
    channel = Channel(read_fd, write_fd, max_bytes=1 << 20)
    header, _ = channel.receive()
    kind, value = header["kind"], header["value"]
    try:
        told = PROBES[kind](value)
    except OSError as error:
        told = f"refused: {errno.errorcode.get(error.errno or 0, error.errno)}"
    except MemoryError:
        told = "refused: memory"
    channel.send({"told": told})
    return 0


def call(name: str) -> Any:
    """One system call by number."""
    return _checked(LIBC.syscall(*map(ctypes.c_long, CALLS[name])))


def read(path: str) -> Any:
    """Open a file, and read of it."""
    return len(os.read(os.open(path, os.O_RDONLY), 1))


def list_(path: str) -> Any:
    """List a folder."""
    return len(os.listdir(path))


def change(value: list[str]) -> Any:
    """Change the file system."""
    how, path = value
    acts: dict[str, Callable[[], Any]] = {
        "append": lambda: os.open(path, os.O_WRONLY | os.O_APPEND),
        "read_write": lambda: os.open(path, os.O_RDWR),
        "create": lambda: os.open(f"{path}.new", os.O_CREAT | os.O_WRONLY, 0o600),
        "temporary": lambda: os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR),
        "truncate": lambda: os.truncate(path, 0),
        "remove": lambda: os.unlink(path),
        "rename": lambda: os.rename(path, f"{path}.moved"),
        "link": lambda: os.link(path, f"{path}.link"),
        "symlink": lambda: os.symlink(path, f"{path}.symlink"),
        "folder": lambda: os.mkdir(f"{path}.folder"),
        "fifo": lambda: os.mkfifo(f"{path}.fifo"),
        "mode": lambda: os.chmod(path, 0o777),
        "owner": lambda: os.chown(path, 0, 0),
        "times": lambda: os.utime(path, (0, 0)),
        "attribute": lambda: os.setxattr(path, "user.x", b"1"),
    }
    return str(acts[how]())


def open_socket(value: list[int]) -> Any:
    """Open a socket of a family and type."""
    family, kind = value
    return _checked(LIBC.syscall(41, family, kind, 0))


def connect(port: int) -> Any:
    """Reach a server that is there."""
    return str(socket.create_connection(("127.0.0.1", port), timeout=5))


def unshare(name: str) -> Any:
    """A new namespace."""
    return _checked(LIBC.syscall(272, NAMESPACES[name]))


def clone(flags: int) -> Any:
    """A new process, or a thread in a new namespace, by the bare call."""
    return _child_or(_checked(LIBC.syscall(56, flags, 0, 0, 0, 0)))


def process(how: str) -> Any:
    """A new process, or another program."""
    acts: dict[str, Callable[[], Any]] = {
        "fork": lambda: _child_or(os.fork()),
        "execve": lambda: os.execve("/bin/true", ["true"], {}),
        "execve_interpreter": lambda: os.execve(sys.executable, ["python", "-V"], {}),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    }
    return acts[how]()


def other(value: list[Any]) -> Any:
    """Reach for another process."""
    how, pid = value
    buffer = ctypes.create_string_buffer(64)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 64)
    acts: dict[str, Callable[[], Any]] = {
        "kill": lambda: os.kill(pid, 15),
        "probe": lambda: os.kill(pid, 0),
        "tgkill": lambda: _checked(LIBC.syscall(234, pid, pid, 15)),
        "tkill": lambda: _checked(LIBC.syscall(200, pid, 15)),
        "sigqueue": lambda: _checked(LIBC.syscall(129, pid, 15, buffer)),
        "attach": lambda: _checked(LIBC.syscall(101, 16, pid, 0, 0)),
        "read_memory": lambda: _checked(LIBC.syscall(310, pid, vector, 1, vector, 1, 0)),
        "write_memory": lambda: _checked(LIBC.syscall(311, pid, vector, 1, vector, 1, 0)),
        "pidfd": lambda: _checked(LIBC.syscall(434, pid, 0)),
        "limits": lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE),
        "memory_file": lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR),
        "environment": lambda: read(f"/proc/{pid}/environ"),
        "command": lambda: read(f"/proc/{pid}/cmdline"),
        "descriptors": lambda: list_(f"/proc/{pid}/fd"),
        "own_signal": lambda: _checked(LIBC.syscall(72, 3, 8, pid)),
    }
    return str(acts[how]())


def raise_limit(name: str) -> Any:
    """More of a resource than was given."""
    kind = getattr(resource, name)
    soft, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (soft + 1, hard + 1))
    except ValueError as error:  # Python's word for a refusal
        raise PermissionError(errno.EPERM, str(error)) from error
    return "raised"


def bomb(kind: str) -> Any:
    """Take without end."""
    acts: dict[str, Callable[[], Any]] = {
        "memory": _memory_bomb,
        "threads": _thread_bomb,
        "descriptors": _descriptor_bomb,
        "processor": _processor_bomb,
        "log": _log_bomb,
        "map": lambda: mmap.mmap(-1, 1 << 46),
    }
    return acts[kind]()


def look(what: str) -> Any:
    """What is there to be seen without asking anybody."""
    if what == "environment":
        return dict(os.environ)
    if what == "descriptors":
        return {str(fd): stat.S_IFMT(os.fstat(fd).st_mode) for fd in range(4096) if _is_open(fd)}
    return {"threads": threading.active_count(), "modules": "tensorflow" in sys.modules}


def _memory_bomb() -> str:
    held = []
    while True:
        held.append(bytearray(64 << 20))


def _thread_bomb() -> str:
    """Threads of the lowest kind: nobody waits for one that ended for want of memory."""
    wanted, gate = 100_000, _thread.allocate_lock()
    gate.acquire()

    def wait() -> None:
        with gate:  # and let the next one out
            pass

    try:
        for _ in range(wanted):
            _thread.start_new_thread(wait, ())
    except (RuntimeError, MemoryError):
        living = _thread._count()
        gate.release()
        return f"refused: threads, after {living}"
    living = _thread._count()
    return "no end" if living >= wanted else f"refused: threads, {living} live"


def _descriptor_bomb() -> str:
    while True:
        os.dup(0)


def _processor_bomb() -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass
    return "no end"


def _log_bomb() -> str:
    for _ in range(10_000):
        os.write(2, b"x" * 65536)
    return "no end"


def _is_open(descriptor: int) -> bool:
    return bool(LIBC.fcntl(descriptor, 1) >= 0)


def _child_or(pid: int) -> int:
    """A child of a probe must not go on as one."""
    if pid == 0:
        os._exit(0)
    return pid


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


PROBES: dict[str, Callable[[Any], Any]] = {
    "call": call, "read": read, "list": list_, "change": change, "socket": open_socket,
    "connect": connect, "unshare": unshare, "clone": clone, "process": process, "other": other,
    "raise_limit": raise_limit, "bomb": bomb, "look": look,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
