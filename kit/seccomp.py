"""Seccomp filters: a process says which system calls it will ever make again.

A `Filter` names what is allowed, some of it only for given values of one argument; everything else
fails with EPERM, what only an attacker would call ends the process, and so does a call by another
machine's numbers. A filter binds every thread and all children, and cannot be taken back. Nothing
here may know what the process is for.

Classic BPF by hand, because libseccomp is no Python package and would have to be on the machine:
https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kit.syscalls import MACHINES, numbers

KILL_PROCESS = 0x80000000
ALLOW = 0x7FFF0000
ERRNO = 0x00050000

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
# On x86-64 these are calls by the numbers of x32.
_X32 = 0x40000000
_SET_FILTER, _GET_ACTION_AVAIL = 1, 2
_ALL_THREADS = 1
_PR_SET_NO_NEW_PRIVS = 38

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Only:
    """A call is allowed while `(argument & mask)` is one of `values`; else it fails with `errno`.

    Only the low 32 bits of the argument are looked at, which is all the kernel reads of an `int`.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    errno: int = errno.EPERM


@dataclass(frozen=True, slots=True)
class Filter:
    """What a process may call.

    Attributes:
        allowed: names of calls that are always allowed, the frequent ones first.
        conditional: name → for which values of an argument.
        failing: name → errno other than EPERM, for callers that then take another way.
        deadly: names that end the process at once.
    """

    allowed: Sequence[str]
    conditional: Mapping[str, Only] = field(default_factory=dict)
    failing: Mapping[str, int] = field(default_factory=dict)
    deadly: Sequence[str] = ()


def available() -> bool:
    """Whether this kernel and machine can install a filter."""
    number = numbers().get("seccomp")
    if sys.platform != "linux" or number is None:
        return False
    action = ctypes.byref(ctypes.c_uint32(KILL_PROCESS))
    return bool(ctypes.CDLL(None).syscall(number, _GET_ACTION_AVAIL, 0, action) == 0)


def install(wanted: Filter) -> None:
    """Bind every thread of this process to the filter; sets no_new_privs, too.

    Raises:
        OSError: the kernel refuses, or a thread could not be bound.
    """
    if not available():
        raise OSError("seccomp filters are missing")
    program = compiled(wanted)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: length, padding, pointer.
    head = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    if libc.syscall(numbers()["seccomp"], _SET_FILTER, _ALL_THREADS, head) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def compiled(wanted: Filter, machine: str = "") -> list[Instruction]:
    """The filter as (code, jump if true, jump if false, constant); LookupError: unknown machine."""
    machine = machine or platform.machine()
    calls = numbers(machine)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, MACHINES[machine]),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, KILL_PROCESS)]
    for names, action in (
        (wanted.allowed, ALLOW),
        (wanted.deadly, KILL_PROCESS),
    ):
        for name in names:
            program += _always(calls.get(name), action)
    for name, number in wanted.failing.items():
        program += _always(calls.get(name), ERRNO | number)
    for name, only in wanted.conditional.items():
        if name in calls:
            program += _under(calls[name], only)
    return [*program, (_RETURN, 0, 0, ERRNO | errno.EPERM)]


def _always(number: int | None, action: int) -> list[Instruction]:
    """One call, one answer; nothing where the machine does not have the call."""
    return [] if number is None else [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]


def _under(number: int, only: Only) -> list[Instruction]:
    """One call whose answer depends on an argument (both machines are little-endian)."""
    tests = len(only.values)
    body: list[Instruction] = [
        (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * only.argument),
        (_AND, 0, 0, only.mask),
        *((_EQUAL, tests - k, 0, value) for k, value in enumerate(only.values)),
        (_RETURN, 0, 0, ERRNO | only.errno),
        (_RETURN, 0, 0, ALLOW),
    ]
    return [(_EQUAL, 0, len(body), number), *body]
