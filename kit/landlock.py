"""Landlock: a process gives up the file system, for itself and all that come after it.

What is not named as readable can be neither read, written, listed, made, removed nor executed. From
version 4 of the kernel's interface TCP is closed too, from version 6 neither abstract sockets nor
signals reach out of the own domain; before, that is for the system-call filter alone. It needs no
privilege and cannot be taken back. It binds the calling thread and those that it starts, so it
belongs before any other thread.

Source: the Linux kernel's documentation, userspace-api/landlock.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from kit.syscalls import numbers

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many rights of files each version knows: refer, truncate and device control came later.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_NEWEST_FILE_RIGHTS = 16
_EVERY_TCP_RIGHT = 0b11
_EVERY_SCOPE = 0b11
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38


def abi() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    number = numbers().get("landlock_create_ruleset")
    if sys.platform != "linux" or number is None:
        return 0
    return max(0, int(_libc().syscall(number, None, ctypes.c_size_t(0), _VERSION)))


def restrict(readable: Iterable[Path]) -> None:
    """Leave this thread nothing but reading below `readable`; paths that do not exist are skipped.

    Sets no_new_privs, too.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    version = abi()
    if version < 1:
        raise OSError("Landlock is missing")
    libc, calls = _libc(), numbers()
    asked = _handled(version)
    ruleset = _checked(
        libc.syscall(calls["landlock_create_ruleset"], asked, ctypes.c_size_t(len(asked)), 0)
    )
    try:
        for path in readable:
            _allow_reading(libc, calls["landlock_add_rule"], ruleset, path)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(calls["landlock_restrict_self"], ruleset, 0))
    finally:
        os.close(ruleset)


def _handled(version: int) -> bytes:
    """Everything the kernel's version can take away (struct landlock_ruleset_attr)."""
    files = (1 << _FILE_RIGHTS.get(version, _NEWEST_FILE_RIGHTS)) - 1
    parts = [files]
    if version >= 4:
        parts.append(_EVERY_TCP_RIGHT)
    if version >= 6:
        parts.append(_EVERY_SCOPE)
    return struct.pack(f"={len(parts)}Q", *parts)


def _allow_reading(libc: ctypes.CDLL, number: int, ruleset: int, path: Path) -> None:
    """One rule; a file can be read, a folder listed and what lies in it read."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        rule = struct.pack("=Qi", rights, place)
        _checked(libc.syscall(number, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
