"""Small file systems that really fill up, and the ballast that fills them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def volume(folder: Path, kibibytes: int) -> Iterator[Path]:
    """A tmpfs of that size; skips loudly where this process may not mount, fails in CI."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k,mode=0755", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        message = f"a disk that is really full needs the right to mount: {mounted.stderr.strip()}"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(message)
        pytest.skip(message)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Take all space but `leave` bytes; remove the file to give it back."""
    ballast = folder / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    taken = 0
    try:
        while True:
            taken += os.write(descriptor, b"\0" * 4096)
    except OSError:
        os.truncate(descriptor, max(0, taken - leave))
    finally:
        os.close(descriptor)
    return ballast
