"""The walls around the sandbox, put up from inside, in two steps that cannot be taken back.

`close_files` comes before TensorFlow is imported and before there is a second thread: from then on
only the interpreter, its packages and shared libraries can be read, and nothing can be written or
executed. `seal` comes after the import and before the first byte that a researcher had a part in:
resource limits, no capability, and a filter that lets through the system calls TensorFlow needs and
nothing else. What cannot be put up is an error, never a quiet nothing, unless the operator said so.

The list of calls was found by tracing the jobs of the test suite; `tests/worker` runs them, and
attacks of every kind, under it.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import kit
import privacy_gateway
import worker
from kit import landlock, seccomp
from kit.seccomp import Filter, Only
from kit.syscalls import numbers

# Facts about the machine that TensorFlow, its thread pools and its kernels ask for.
_HARDWARE = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/dev/urandom",
)
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
DESCRIPTORS = 64
# Beyond what the account runs already: the kernel counts per account, not per process.
_TASKS = 4096

_CLONE_VM, _CLONE_SIGHAND, _CLONE_THREAD = 0x100, 0x800, 0x10000
# New mount, cgroup, UTS, IPC, user, PID and network namespaces.
_CLONE_NAMESPACES = 0x7E020000
_THREAD = _CLONE_VM | _CLONE_SIGHAND | _CLONE_THREAD
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TCGETS, _FIONCLEX, _FIOCLEX = 0x5401, 0x5450, 0x5451
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: none that names another process.
_FCNTL = (0, 1, 2, 3, 4, 1030)
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41

_ALWAYS = (
    "futex", "read", "write", "readv", "writev", "clock_nanosleep", "madvise", "mmap", "munmap",
    "mremap", "mprotect", "brk", "sched_yield", "clock_gettime", "gettimeofday", "time", "poll",
    "ppoll", "select", "pselect6", "lseek", "pread64", "close", "newfstatat", "fstat", "stat",
    "lstat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents64",
    "getcwd", "dup", "dup2", "dup3", "pipe2", "eventfd2", "epoll_create1", "epoll_ctl",
    "epoll_wait", "epoll_pwait", "mincore", "fadvise64", "membarrier", "rseq", "set_robust_list",
    "get_robust_list", "set_tid_address", "getpid", "gettid", "getppid", "getuid", "geteuid",
    "getgid", "getegid", "getresuid", "getresgid", "getpgrp", "getpgid", "getsid", "uname",
    "sysinfo", "getrandom", "getrusage", "times", "getcpu", "clock_getres", "nanosleep",
    "restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending",
    "rt_sigsuspend", "rt_sigtimedwait", "sigaltstack", "sched_getaffinity", "sched_getscheduler",
    "sched_getparam", "sched_get_priority_max", "sched_get_priority_min", "mbind", "get_mempolicy",
    "set_mempolicy", "arch_prctl", "getrlimit", "exit", "exit_group",
)  # fmt: skip
# Beside those, for the parent of sandboxes: make children, tell of them, lock them up.
_PARENT = (
    "sendmsg", "recvmsg", "wait4", "waitid", "pidfd_open", "close_range", "setsid", "capset",
    "prlimit64", "prctl", "seccomp", "landlock_create_ruleset", "landlock_add_rule",
    "landlock_restrict_self",
)  # fmt: skip
_DEADLY = (
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "add_key", "keyctl", "request_key", "mount", "umount2", "move_mount",
    "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "pivot_root",
    "chroot", "setns", "unshare", "kexec_load", "kexec_file_load", "init_module", "finit_module",
    "delete_module", "name_to_handle_at", "open_by_handle_at", "quotactl", "acct", "swapon",
    "swapoff", "reboot", "personality", "execve", "execveat",
)  # fmt: skip
# glibc falls back to the older call, whose flags a filter can see.
_FALL_BACK = {"clone3": errno.ENOSYS, "openat2": errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Resources of one sandbox, in bytes and seconds; what is taken by the import counts."""

    memory_bytes: int
    cpu_seconds: int
    file_bytes: int
    tasks: int

    @classmethod
    def parse(cls, value: Any) -> Self:
        """From the launcher; TypeError or ValueError when it is something else."""
        return cls(**{str(name): int(number) for name, number in dict(value).items()})

    def as_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return asdict(self)


def readable() -> list[Path]:
    """All that a sandbox may read: interpreter, packages, shared libraries, the kind of machine."""
    base = Path(sys.base_prefix)
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    packages = {Path(sysconfig.get_path(name)) for name in names}
    standard = {
        Path(sysconfig.get_path(name, vars={"base": str(base), "platbase": str(base)}))
        for name in names[:2]
    }
    own = {Path(room.__path__[0]).resolve() for room in (kit, privacy_gateway, worker)}
    fixed = {base / "lib", base / "lib64", *map(Path, (*_LIBRARIES, *_HARDWARE))}
    return sorted(path for path in packages | standard | own | fixed if path.exists())


def close_files(*, parent: bool = False) -> None:
    """Give up the file system but for `readable`; call while there is one thread.

    Args:
        parent: a parent of sandboxes leaves files of `/proc` open to its children, of which each
            closes all but its own command line; what needs ptrace rights is closed to it, too.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    # Packages ask for its name at import; Python would try to write there to find it.
    tempfile.tempdir = f"{os.devnull}/temporary"
    landlock.restrict([*readable(), Path("/proc") if parent else _command_line()])


def seal(bounds: Bounds) -> None:
    """Limits, capabilities, filter; from here on the process computes and nothing else.

    Raises:
        OSError: a wall could not be put up.
    """
    limit(bounds)
    _drop_capabilities()
    seccomp.install(sandbox_filter(os.getpid()))


def seal_parent() -> None:
    """The same for the parent of sandboxes, which must still be able to fork and to seal."""
    _drop_capabilities()
    seccomp.install(parent_filter())


def limit(bounds: Bounds) -> None:
    """Resource limits, for good."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, bounds.file_bytes)
    _lower(resource.RLIMIT_CPU, bounds.cpu_seconds)
    _lower(resource.RLIMIT_AS, bounds.memory_bytes)
    _lower(resource.RLIMIT_NOFILE, DESCRIPTORS)
    if hasattr(resource, "RLIMIT_NPROC"):
        _lower(resource.RLIMIT_NPROC, bounds.tasks + _TASKS)
    # A full log must not end a job by a signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def sandbox_filter(pid: int) -> Filter:
    """What the process `pid` may call once it computes for a researcher."""
    themselves = (0, pid)
    return Filter(
        allowed=_ALWAYS,
        conditional={
            "clone": Only(0, (_THREAD,), mask=_CLONE_NAMESPACES | _THREAD),
            "openat": Only(2, (0,), mask=_WRITING, errno=errno.EACCES),
            "open": Only(1, (0,), mask=_WRITING, errno=errno.EACCES),
            "ioctl": Only(1, (_TCGETS, _FIONCLEX, _FIOCLEX), errno=errno.ENOTTY),
            "fcntl": Only(1, _FCNTL),
            "prctl": Only(0, (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA)),
            "prlimit64": Only(0, themselves),
            # abort() is a signal to oneself; no other process can be named.
            "tgkill": Only(0, (pid,)),
        },
        failing=_FALL_BACK,
        deadly=_DEADLY,
    )


def parent_filter() -> Filter:
    """What the parent of sandboxes may call; each child adds `sandbox_filter` to it."""
    return Filter(
        allowed=(*_ALWAYS, *_PARENT, "tgkill"),
        conditional={
            "clone": Only(0, (0,), mask=_CLONE_NAMESPACES),
            "openat": Only(2, (0,), mask=_WRITING & ~os.O_APPEND, errno=errno.EACCES),
            "open": Only(1, (0,), mask=_WRITING & ~os.O_APPEND, errno=errno.EACCES),
            "ioctl": Only(1, (_TCGETS, _FIONCLEX, _FIOCLEX), errno=errno.ENOTTY),
            "fcntl": Only(1, _FCNTL),
        },
        failing=_FALL_BACK,
        deadly=_DEADLY,
    )


def _command_line() -> Path:
    """What TensorFlow insists on reading of itself.

    A rule is tied to the inode, which the kernel makes anew once nobody holds it: it is held.
    """
    path = Path("/proc/self/cmdline")
    os.open(path, os.O_PATH | os.O_CLOEXEC)
    return path


def _drop_capabilities() -> None:
    """An account that is root keeps its name and loses its powers (capset(2), version 3)."""
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(numbers()["capset"], header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")


def _lower(kind: int, value: int) -> None:
    """Lower a limit for good."""
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))
