"""Statements out of the database: which entries a period has, and where the last one is proven.

The account itself is made by `privacy_gateway.account`, which an auditor runs over an export. This
module only reads. It must never let a statement out whose last entry is not under a signed
checkpoint: nobody could prove afterwards that the entry was there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import log
from accounting.tables import ENTRY, LOG_LEAF
from kit.clock import from_micros, micros
from privacy_gateway import statement as statements
from privacy_gateway.account import Sealed, build
from privacy_gateway.checkpoint import Signer
from privacy_gateway.errors import Refused, invalid

_BATCH: Final = 1000


def statement(
    session: Session,
    signers: Sequence[Signer],
    *,
    population_id: str,
    since: datetime | None,
    until: datetime | None,
    now: datetime,
) -> dict[str, Any]:
    """The signed statement of a population for [since, until).

    Args:
        session: reads only.
        signers: keys of the log; all of them sign.
        population_id: whose budget.
        since: the beginning of time when None.
        until: when None, as far as the newest checkpoint reaches.
        now: time of issue.

    Raises:
        Refused: `invalid_request` naming `from` or `to`; `not_found` before the population was
            opened; `not_ready` while no checkpoint covers the period, or no key is there;
            `too_large` beyond 100,000 entries.
    """
    newest = log.latest(session)
    if newest is None or not signers:
        raise Refused("not_ready", "no checkpoint is signed yet")
    covered = _covered(session, population_id, newest.size)
    end = until if until is not None else _reach(session, population_id, covered, now)
    start = since if since is not None else from_micros(0)
    _check_period(start, end, now)
    first, last = _head(session, population_id, start), _head(session, population_id, end)
    if last == 0:
        raise Refused("not_found", f"population {population_id} was not open at that time")
    if last > covered:
        raise Refused("not_ready", f"no checkpoint covers entry {last} yet; try again in a moment")
    if last - first > statements.MAX_ENTRIES:
        raise Refused(
            "too_large",
            f"the period has {last - first} entries; ask for a shorter one",
            limit=statements.MAX_ENTRIES,
        )
    account = build(
        _one(session, population_id, 1).leaf,
        _one(session, population_id, first) if first else None,
        _between(session, population_id, first, last),
        (micros(start), micros(end)),
    )
    proof = log.inclusion(session, log.place_of(session, population_id, last), newest.size)
    standing = {
        "checkpoint": newest.note,
        "index": proof.place.place,
        "path": [part.hex() for part in proof.path],
    }
    return statements.sign(statements.issued(account, now=micros(now), log=standing), signers)


def _check_period(start: datetime, end: datetime, now: datetime) -> None:
    if end > now:
        raise invalid("to", "lies in the future; a statement is about what has been")
    if start >= end:
        raise invalid("from", "must be before the end of the period")


def _covered(session: Session, population_id: str, size: int) -> int:
    """The last entry of the chain that the checkpoint is over."""
    query = sa.select(sa.func.coalesce(sa.func.max(LOG_LEAF.c.seq), 0)).where(
        LOG_LEAF.c.population_id == population_id, LOG_LEAF.c.place < size
    )
    return int(session.execute(query).scalar_one())


def _reach(session: Session, population_id: str, covered: int, now: datetime) -> datetime:
    """Now, or the time of the first entry that no checkpoint covers."""
    query = sa.select(sa.func.min(ENTRY.c.at)).where(
        ENTRY.c.population_id == population_id, ENTRY.c.seq > covered
    )
    at = session.execute(query).scalar_one_or_none()
    return now if at is None else min(now, from_micros(at))


def _head(session: Session, population_id: str, at: datetime) -> int:
    """The largest `seq` dated before a time; 0 where there is none."""
    query = (
        sa.select(ENTRY.c.seq)
        .where(ENTRY.c.population_id == population_id, ENTRY.c.at < micros(at))
        .order_by(ENTRY.c.seq.desc())
        .limit(1)
    )
    return int(session.execute(query).scalar_one_or_none() or 0)


def _one(session: Session, population_id: str, seq: int) -> Sealed:
    return next(_between(session, population_id, seq - 1, seq))


def _between(session: Session, population_id: str, after: int, last: int) -> Iterator[Sealed]:
    """Entries from the one after `after` to `last`, read in batches."""
    while after < last:
        query = (
            sa.select(ENTRY.c.seq, ENTRY.c.leaf, ENTRY.c.hash)
            .where(ENTRY.c.population_id == population_id)
            .where(ENTRY.c.seq > after, ENTRY.c.seq <= last)
            .order_by(ENTRY.c.seq)
            .limit(_BATCH)
        )
        rows = session.execute(query).all()
        if not rows:
            return
        for row in rows:
            yield Sealed(json.loads(row.leaf), row.hash)
        after = rows[-1].seq
