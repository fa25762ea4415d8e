"""Puts committed ledger entries into the Merkle log and signs what the log has become.

Entries are taken population by population, from the last integrated `seq` up to the committed
head, and merged by id. The ids of PostgreSQL become visible out of order, but a chain is written
under its population's row lock: whoever sees an entry sees all before it, so each chain enters
complete and in order, and no entry can be passed over. One sequencer at a time, under a lock;
places are a primary key, so even two could not give one place away twice. Nothing here may change
an entry, or sign a tree that contradicts the checkpoint before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import log
from accounting.errors import log_damaged
from accounting.log import Signed
from accounting.tables import ENTRY, LOG_CHECKPOINT, LOG_KEY, LOG_LEAF, LOG_NODE, POPULATION
from kit.clock import micros
from privacy_gateway import checkpoint, merkle
from privacy_gateway.checkpoint import Checkpoint, Signer

BATCH: Final = 1000

# Any number will do that nobody else uses for an advisory lock in this database.
_ADVISORY_LOCK: Final = 69_629_162

_DONE = (
    sa.select(sa.func.coalesce(sa.func.max(LOG_LEAF.c.seq), 0))
    .where(LOG_LEAF.c.population_id == POPULATION.c.id)
    .correlate(POPULATION)
    .scalar_subquery()
)
_BEHIND = sa.select(POPULATION.c.id, _DONE.label("done")).where(POPULATION.c.head_seq > _DONE)
_NEXT = (
    sa.select(ENTRY.c.id, ENTRY.c.population_id, ENTRY.c.seq, ENTRY.c.hash)
    .where(ENTRY.c.population_id == sa.bindparam("of"), ENTRY.c.seq > sa.bindparam("done"))
    .order_by(ENTRY.c.seq)
)


def waiting(session: Session) -> bool:
    """Whether any committed entry is not in the log yet."""
    return session.execute(_BEHIND.limit(1)).first() is not None


def unsigned(session: Session, signers: Sequence[Signer]) -> bool:
    """Whether the log has grown, or its keys have changed, since the newest checkpoint."""
    before, size = log.latest(session), log.size(session)
    if before is None or before.size != size:
        return size > 0
    return not _all_signed(before, signers)


def integrate(session: Session, *, limit: int = BATCH) -> int:
    """Append at most `limit` committed entries to the log; answers how many.

    Args:
        session: open transaction of the caller, who commits.
        limit: fewer than this many appended means that none is left.
    """
    _lock(session)
    entries = _next(session, limit)
    append(session, [(entry.population_id, entry.seq, entry.hash) for entry in entries])
    return len(entries)


def append(session: Session, entries: Sequence[tuple[str, int, str]]) -> None:
    """Append entries (population, seq, seal) to the log in just this order.

    A restored database is brought back to the order that its witness has seen; everybody else
    calls `integrate`.
    """
    if not entries:
        return
    _lock(session)
    frontier = log.frontier(session)
    leaves, nodes = [], []
    for population_id, seq, sealed in entries:
        leaves.append({"place": frontier.size, "population_id": population_id, "seq": seq})
        made = frontier.append(merkle.leaf_hash(bytes.fromhex(sealed)))
        nodes += [{"level": level, "place": place, "hash": hash_} for level, place, hash_ in made]
    session.execute(sa.insert(LOG_LEAF), leaves)
    session.execute(sa.insert(LOG_NODE), nodes)


def sign(session: Session, signers: Sequence[Signer], *, now: datetime) -> Signed | None:
    """Sign the log as it stands, unless these keys have already done so.

    Args:
        session: open transaction of the caller, who commits.
        signers: keys of one name, the log's origin; all of them sign.
        now: when.

    Raises:
        Refused: `unavailable` when the tree no longer leads to the checkpoint before, or the keys
            are another log's.
    """
    _lock(session)
    before = log.latest(session)
    size = log.size(session)
    if size == 0 or not signers:
        return None
    _check_before(session, before, signers, size)
    if before is not None and before.size == size and _all_signed(before, signers):
        return None
    root = log.root(session, size)
    note = checkpoint.seal(Checkpoint(signers[0].name, size, root), signers)
    _register(session, signers, now)
    session.execute(
        sa.insert(LOG_CHECKPOINT).values(
            origin=signers[0].name,
            size=size,
            root=root.hex(),
            note=note,
            signed_at=micros(now),
        )
    )
    return Signed(signers[0].name, size, root.hex(), note, now)


def _lock(session: Session) -> None:
    """SQLite's writers already stand in line."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def _next(session: Session, limit: int) -> list[Any]:
    """Rows of the oldest entries that are not integrated, each chain in its order."""
    found: list[Any] = []
    for behind in session.execute(_BEHIND).all():
        rows = session.execute(_NEXT.limit(limit), {"of": behind.id, "done": behind.done})
        found.extend(rows)
    found.sort(key=lambda row: int(row.id))
    return found[:limit]


def _check_before(
    session: Session, before: Signed | None, signers: Sequence[Signer], size: int
) -> None:
    names = {signer.name for signer in signers} | ({before.origin} if before else set())
    if len(names) != 1:
        raise log_damaged(f"its keys are of several logs ({', '.join(sorted(names))})")
    if before is None:
        return
    if size < before.size or log.root(session, before.size).hex() != before.root:
        raise log_damaged(f"its tree does not lead to the checkpoint of {before.size} entries")


def _all_signed(before: Signed, signers: Sequence[Signer]) -> bool:
    signed = {made.key_id for made in checkpoint.parse(before.note).signatures}
    return {signer.verifier.key_id for signer in signers} == signed


def _register(session: Session, signers: Sequence[Signer], now: datetime) -> None:
    """Remember the public halves for ever."""
    known = set(session.execute(sa.select(LOG_KEY.c.public)).scalars())
    for signer in signers:
        public = str(signer.verifier)
        if public not in known:
            session.execute(sa.insert(LOG_KEY).values(public=public, first_signed_at=micros(now)))
