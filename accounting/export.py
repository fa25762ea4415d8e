"""Reading entries back: filtered pages for people, and the whole chain for a verifier.

An export is consistent by construction: heads are read first, then every entry up to its head.
This module only reads, and copies leaves byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting.posting import Entry, entry_of
from accounting.tables import ENTRY, POPULATION
from kit.clock import micros
from privacy_gateway import canonical, chain
from privacy_gateway.errors import Refused

MAX_PAGE = 1000
_BATCH = 1000


def entries(
    session: Session,
    *,
    population: str | None = None,
    researcher: str | None = None,
    job: str | None = None,
    kind: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: int | None = None,
    limit: int = 100,
    populations: Iterable[str] | None = None,
) -> list[Entry]:
    """A page of entries in the order they were written.

    Args:
        session: reads only.
        population: only of this population.
        researcher: only about this researcher.
        job: only about this job.
        kind: only of this kind.
        since: at this time or later.
        until: before this time.
        after: id of the last entry of the page before.
        limit: at most this many, 1 to 1000.
        populations: only of these, for a caller who may not see others.
    """
    query = sa.select(ENTRY).order_by(ENTRY.c.id).limit(max(1, min(limit, MAX_PAGE)))
    equal = {
        ENTRY.c.population_id: population,
        ENTRY.c.researcher_id: researcher,
        ENTRY.c.job_id: job,
        ENTRY.c.kind: kind,
    }
    for column, wanted in equal.items():
        if wanted is not None:
            query = query.where(column == wanted)
    if populations is not None:
        query = query.where(ENTRY.c.population_id.in_(list(populations)))
    if since is not None:
        query = query.where(ENTRY.c.at >= micros(since))
    if until is not None:
        query = query.where(ENTRY.c.at < micros(until))
    if after is not None:
        query = query.where(ENTRY.c.id > after)
    return [entry_of(row) for row in session.execute(query)]


def entry(session: Session, entry_id: int) -> Entry:
    """One entry by its id.

    Raises:
        Refused: `not_found`.
    """
    row = session.execute(sa.select(ENTRY).where(ENTRY.c.id == entry_id)).one_or_none()
    if row is None:
        raise Refused("not_found", f"there is no ledger entry {entry_id}")
    return entry_of(row)


def export_lines(session: Session, *, populations: Iterable[str] | None = None) -> Iterator[bytes]:
    """The ledger as JSON lines, without line ends: a header, every chain in order, the heads.

    A head line states the last sequence number and hash of a population, so that a truncated
    export can be told from a short one.

    Args:
        session: reads only.
        populations: only these; all when None.
    """
    query = sa.select(POPULATION.c.id, POPULATION.c.head_seq, POPULATION.c.head_hash).order_by(
        POPULATION.c.id
    )
    if populations is not None:
        query = query.where(POPULATION.c.id.in_(list(populations)))
    heads = session.execute(query).all()
    yield canonical.dumps({"format": chain.FORMAT, "populations": len(heads)})
    for head in heads:
        yield from _chain(session, head.id, head.head_seq)
    for head in heads:
        fact = {"population": head.id, "seq": head.head_seq, "hash": head.head_hash}
        yield canonical.dumps({"head": fact})


def _chain(session: Session, population_id: str, last: int) -> Iterator[bytes]:
    """One population's lines from 1 to `last`, read in batches."""
    done = 0
    while done < last:
        rows = session.execute(
            sa.select(ENTRY.c.seq, ENTRY.c.leaf, ENTRY.c.prev_hash, ENTRY.c.hash)
            .where(ENTRY.c.population_id == population_id, ENTRY.c.seq > done, ENTRY.c.seq <= last)
            .order_by(ENTRY.c.seq)
            .limit(_BATCH)
        ).all()
        if not rows:
            return
        for row in rows:
            yield chain.write_line(row.hash, row.leaf.encode(), row.prev_hash)
        done = rows[-1].seq
