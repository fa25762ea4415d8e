"""The private keys of the log: small files that only the gateway's user can read.

Every file `log-ed25519*` of the folder signs every new checkpoint. A key is rotated by adding a
file, waiting until every verifier knows the new public key, and removing the old file. Nothing
here may print, log or return the text of a key.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from accounting.errors import log_refused
from privacy_gateway import checkpoint
from privacy_gateway.checkpoint import BadNote, Signer

FIRST: Final = "log-ed25519"


def new_origin() -> str:
    """A name for a new log that no other log has."""
    return f"privacy-gateway/{secrets.token_hex(8)}"


def signers(folder: Path) -> list[Signer]:
    """Every key of the folder, in the order of the files' names; none where there is no folder.

    Raises:
        Refused: `unavailable` when a file is no key, or can be read by others.
    """
    return [_read(path) for path in sorted(folder.glob(f"{FIRST}*"))]


def add(folder: Path, origin: str, *, another: bool = True) -> Path:
    """Make a key; it signs from the next checkpoint on.

    Args:
        folder: of the key files.
        origin: the log's name.
        another: False to make the first key, and none where there is one.

    Returns:
        Its file: `log-ed25519`, then `log-ed25519.2`, `log-ed25519.3` and so on.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer = checkpoint.new_signer(origin)
    temporary = folder / f".new-{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, f"{signer.secret()}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        return _linked(folder, temporary, another)
    finally:
        temporary.unlink()


def first(folder: Path, origin: str) -> list[Signer]:
    """The folder's keys; one is made where there is none."""
    if not (found := signers(folder)):
        add(folder, origin, another=False)
        found = signers(folder)
    return found


def _linked(folder: Path, temporary: Path, another: bool) -> Path:
    """Give the file the next free name; a link never replaces a key."""
    number = 1
    while True:
        path = folder / (FIRST if number == 1 else f"{FIRST}.{number}")
        try:
            os.link(temporary, path)
        except FileExistsError:
            if not another:
                return path
            number += 1
            continue
        return path


def _read(path: Path) -> Signer:
    if path.stat().st_mode & 0o077:
        raise log_refused(
            "key_exposed", f"others can read the key {path}; run `chmod 600` and add another key"
        )
    try:
        return checkpoint.read_signer(path.read_text(encoding="ascii"))
    except (BadNote, UnicodeDecodeError) as error:
        raise log_refused("key_damaged", f"{path} is no Ed25519 key of a log") from error
