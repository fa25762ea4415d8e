"""The witness: the newest checkpoint in a file that a restored database does not bring back.

A database that is older than its witness has forgotten spending; one that leads to another root
has rewritten it. Both are refused, each by its own reason, because going on would spend people's
budget twice. The file is replaced as a whole (written, synced, renamed) and never by an older one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from accounting import log
from accounting.errors import log_damaged, log_refused
from privacy_gateway import checkpoint
from privacy_gateway.checkpoint import BadNote, Checkpoint, Verifier
from privacy_gateway.errors import Refused

State = Literal["ok", "none", "absent"]


def read(path: Path) -> str | None:
    """The note in the witness file; None where there is no file.

    Raises:
        OSError: the file is there and cannot be read.
        Refused: `unavailable` when it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is no text") from error


def write(path: Path, note: str) -> bool:
    """Replace the witness, durably; False when it holds this or a larger tree already.

    Raises:
        OSError: the disk is full, read-only or gone; the old witness stands.
        Refused: `unavailable` when what is there cannot be read as a checkpoint.
    """
    size = checkpoint.parse(note).checkpoint.size
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(path):
        present = read(path)
        if present == note or (present is not None and _parsed(path, present).size > size):
            return False
        _replace(path, note)
    return True


def check(session: Session, path: Path, keys: Sequence[Verifier] = ()) -> State:
    """Hold the database against the witness.

    Args:
        session: reads only.
        path: the witness file.
        keys: public keys known besides those that the database remembers.

    Returns:
        `ok`; `none` where nothing was ever signed; `absent` where checkpoints exist and the file
        does not, which proves nothing either way.

    Raises:
        Refused: `unavailable` with a `reason`: `rolled_back` when the database is older than the
            witness, `witness_differs` when it has another history, `witness_damaged` when the file
            is forged or broken, `log_damaged` when the tree contradicts its own checkpoint.
        OSError: the file cannot be read.
    """
    newest = log.latest(session)
    if newest is not None and log.root(session, newest.size).hex() != newest.root:
        raise log_damaged(f"its tree does not lead to the checkpoint of {newest.size} entries")
    note = read(path)
    if note is None:
        return "none" if newest is None else "absent"
    seen = _parsed(path, note)
    believed = _believed(path, note, [*log.verifiers(session), *keys])
    have = log.size(session)
    if seen.size > have:
        raise _rolled_back(path, seen.size, have)
    if not believed or log.root(session, seen.size) != seen.root:
        raise _differs(path, seen.size)
    return "ok"


def refuse_older(session: Session, path: Path) -> None:
    """Before anything is spent: a database may have become an older one while it was in use.

    A failover to a replica that lagged, or a volume put back under a running gateway. Compares
    sizes alone, which takes one small query; a witness that cannot be had holds nobody up here.

    Raises:
        Refused: `unavailable` with the reason `rolled_back`.
    """
    try:
        note = read(path)
        seen = 0 if note is None else _size(note)
    except (OSError, Refused, BadNote):
        return
    have = log.size(session) if seen else 0
    if seen > have:
        raise _rolled_back(path, seen, have)


@lru_cache(maxsize=2)
def _size(note: str) -> int:
    return checkpoint.parse(note).checkpoint.size


def _believed(path: Path, note: str, keys: Sequence[Verifier]) -> bool:
    """Whether a known key signed; a forged signature is not an unknown key."""
    try:
        checkpoint.verify(note, keys)
    except BadNote as error:
        if error.flaw == "unknown_key":
            return False
        raise _damaged(path, error.detail) from error
    return True


def _parsed(path: Path, note: str) -> Checkpoint:
    try:
        return checkpoint.parse(note).checkpoint
    except BadNote as error:
        raise _damaged(path, error.detail) from error


def _rolled_back(path: Path, seen: int, have: int) -> Exception:
    return log_refused(
        "rolled_back",
        f"the database holds {have} ledger entries and its witness has seen {seen}: this is an old"
        " backup, and budget that was spent since would be spent again. Restore the newest"
        " database; or write the missing entries back from a newer export of the whole ledger:"
        f" privacy-gateway restore --export NEWER. The witness {path} stays where it is",
        entries=have,
        witnessed=seen,
    )


def _differs(path: Path, seen: int) -> Exception:
    return log_refused(
        "witness_differs",
        f"the database's first {seen} ledger entries are not those that its witness {path} has"
        " seen: this is another gateway's witness, or history was rewritten. Point"
        " PRIVACY_GATEWAY_WITNESS_PATH to this gateway's own witness, or restore its database",
        witnessed=seen,
    )


def _damaged(path: Path, why: str) -> Exception:
    return log_refused(
        "witness_damaged",
        f"the witness {path} is not a checkpoint of this log: {why}. Restore the file from a copy;"
        " or compare the log with a checkpoint that an auditor keeps, then move the file aside",
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One writer at a time, over all processes of this machine."""
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, note: str) -> None:
    """Written, synced, renamed, and the rename synced."""
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", closefd=False) as file:
            file.write(note)
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
