"""What the C library does with memory that was freed: keep it for the next array of that size.

Its own choice is to give large arrays back to the kernel, which clears every page anew when the
next round asks for them: some hundredths of a round's processor time. Both ways below do nothing
where the C library is not glibc (manual of glibc, "Memory Allocation Tunables" and `mallopt`).
"""

from __future__ import annotations

import ctypes
import sys

# The most that can come from the heap at all; what is larger is mapped, and given back when freed.
_FROM_HEAP_BYTES = 32 << 20
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep(kept_bytes: int) -> bool:
    """Let this process keep up to `kept_bytes` that it has freed; whether that was possible.

    Threads that allocate at the same time have arenas of their own, and each keeps so much.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None:
        return False
    options = ((_M_TRIM_THRESHOLD, kept_bytes), (_M_MMAP_THRESHOLD, _FROM_HEAP_BYTES))
    return all(set_option(option, value) == 1 for option, value in options)


def tunables(kept_bytes: int) -> str:
    """`GLIBC_TUNABLES` of a program that is to do the same, in huge pages where the kernel lets it.

    Huge pages must be asked for before a program's first allocation, which `keep` cannot.
    """
    options = {
        "hugetlb": 1,
        "trim_threshold": kept_bytes,
        "mmap_threshold": _FROM_HEAP_BYTES,
    }
    return ":".join(f"glibc.malloc.{name}={value}" for name, value in options.items())
