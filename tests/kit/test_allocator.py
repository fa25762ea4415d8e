"""Freed memory is kept: what a page that is not cleared again shows."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

from kit import allocator

MEBIBYTE = 1 << 20
# Faults of eight rounds, each with arrays of 1 MiB in all stages between small and large.
CHILD = """
import resource, sys
import numpy as np
from kit import allocator
if sys.argv[1] == "keep":
    assert allocator.keep(64 << 20)

def once():
    kept = [np.ones(size << 10, np.uint8) for size in (200, 400, 800, 1600)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

once()
before = faults()
for _ in range(8):
    once()
print(faults() - before)
"""


def test_what_was_freed_is_used_again() -> None:
    if platform.libc_ver()[0] != "glibc":  # nothing can be told to another C library
        assert not allocator.keep(64 * MEBIBYTE)
        return
    plain, kept, told = faults("plain"), faults("keep"), faults("plain", told=64 * MEBIBYTE)
    assert plain > 500
    assert kept < plain / 10
    assert told < plain / 10


def faults(way: str, *, told: int | None = None) -> int:
    """Pages the kernel had to clear in a child, by `keep` or by what its environment tells it."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if told is not None:
        environment["GLIBC_TUNABLES"] = allocator.tunables(told)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, way],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
