"""Environments of the peers: made once, from hashes, never mixed with the project's own.

A peer must never be installed beside the product: TensorFlow Federated wants a TensorFlow of 2023.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.report import REPOSITORY

PEERS = ("tff", "flower", "torch")
PYTHON = "3.11"


def environments(home: Path | None = None) -> dict[str, Path]:
    """The peers' interpreters by name, made where they are missing or their lock has changed.

    Args:
        home: folder of the environments; `.cache/peers` of the project by default.

    Raises:
        CalledProcessError: an environment could not be made; uv has said why.
    """
    folder = home or REPOSITORY / ".cache" / "peers"
    return {name: _environment(folder / name, lock_of(name)) for name in PEERS}


def lock_of(name: str) -> Path:
    """The file with the versions and hashes of a peer."""
    return REPOSITORY / "requirements" / f"peers-{name}.txt"


def is_current(folder: Path, lock: Path) -> bool:
    """Whether the environment was made, wholly, from this lock."""
    stamp = folder / "lock.sha256"
    return stamp.is_file() and stamp.read_text(encoding="ascii") == _digest(lock)


def _environment(folder: Path, lock: Path) -> Path:
    python = folder / "bin" / "python"
    if is_current(folder, lock) and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = str(Path(sys.executable).with_name("uv"))
    _run(uv, "venv", "--quiet", "--python", PYTHON, str(folder))
    _run(
        *(uv, "pip", "install", "--quiet", "--python", str(python), "--compile-bytecode"),
        # The locks name every distribution, and one of them not in the version others ask for.
        *("--no-deps", "--require-hashes", "-r", str(lock)),
    )
    (folder / "lock.sha256").write_text(_digest(lock), encoding="ascii")
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env={"UV_LINK_MODE": "copy", **os.environ})


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()
