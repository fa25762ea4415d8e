"""Reading entries back: filtered pages for people, and the whole chain for a verifier.

An export is consistent by construction: heads are read first, then every entry up to its head.
This module only reads, and copies leaves byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import log
from accounting.errors import log_damaged
from accounting.posting import Entry, entry_of
from accounting.tables import ENTRY, LOG_LEAF, POPULATION
from kit.clock import micros
from privacy_gateway import canonical, chain, merkle
from privacy_gateway.errors import Refused

MAX_PAGE = 1000
_BATCH = 1000
_LEAVES_A_LINE = 4096


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
    """The ledger as JSON lines, without line ends: header, every chain in order, heads, log.

    A head line states the last sequence number and hash of a population, so that a truncated
    export can be told from a short one. The log's lines and the checkpoint that was newest when
    the export began are last (`privacy_gateway.logbook` describes them); they are absent while
    nothing is signed.

    Args:
        session: reads only.
        populations: only these; all when None.
    """
    # First of all: whatever is under this checkpoint was committed before the heads are read.
    newest = log.latest(session)
    query = sa.select(POPULATION.c.id, POPULATION.c.head_seq, POPULATION.c.head_hash).order_by(
        POPULATION.c.id
    )
    if populations is not None:
        query = query.where(POPULATION.c.id.in_(list(populations)))
    heads = session.execute(query).all()
    header: dict[str, Any] = {"format": chain.FORMAT, "populations": len(heads)}
    proven = [] if newest is None or populations is None else _last_places(session, heads, newest)
    if newest is not None:
        proofs = {} if populations is None else {"proofs": len(proven)}
        header["log"] = {"size": newest.size} | proofs
    yield canonical.dumps(header)
    for head in heads:
        yield from _chain(session, head.id, head.head_seq)
    for head in heads:
        fact = {"population": head.id, "seq": head.head_seq, "hash": head.head_hash}
        yield canonical.dumps({"head": fact})
    if newest is None:
        return
    if populations is None:
        yield from _orders(session, [head.id for head in heads], newest.size)
    for entry in proven:
        yield _proof_line(log.inclusion(session, entry, newest.size))
    yield canonical.dumps({"checkpoint": newest.note})


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


def _orders(session: Session, chains: list[str], size: int) -> Iterator[bytes]:
    """How the chains were merged into the log, and the root after every few thousand leaves."""
    numbers = {name: number for number, name in enumerate(chains)}
    frontier = merkle.Frontier()
    query = (
        sa.select(LOG_LEAF.c.population_id, ENTRY.c.hash)
        .join_from(LOG_LEAF, ENTRY)
        .order_by(LOG_LEAF.c.place)
    )
    while frontier.size < size:
        start = frontier.size
        end = min(size, start + _LEAVES_A_LINE)
        rows = session.execute(query.where(LOG_LEAF.c.place >= start, LOG_LEAF.c.place < end)).all()
        frontier.extend(merkle.leaf_hash(bytes.fromhex(row.hash)) for row in rows)
        if frontier.size != end:
            raise log_damaged(f"leaves between {start} and {end} are missing")
        order = {
            "from": start,
            "root": frontier.root().hex(),
            "runs": [
                part
                for name, group in groupby(row.population_id for row in rows)
                for part in (numbers[name], len(list(group)))
            ],
            "size": end,
        }
        yield canonical.dumps({"order": order})


def _last_places(session: Session, heads: Iterable[Any], newest: log.Signed) -> list[log.Place]:
    """The last entry under the checkpoint of each chain; it seals all before it."""
    found = []
    for head in heads:
        query = (
            sa.select(LOG_LEAF.c.place)
            .where(LOG_LEAF.c.population_id == head.id, LOG_LEAF.c.place < newest.size)
            .order_by(LOG_LEAF.c.seq.desc())
            .limit(1)
        )
        place = session.execute(query).scalar_one_or_none()
        if place is not None:
            found.append(log.place(session, place))
    return found


def _proof_line(proof: log.Inclusion) -> bytes:
    fact = {
        "index": proof.place.place,
        "path": [part.hex() for part in proof.path],
        "population": proof.place.population_id,
        "seq": proof.place.seq,
        "size": proof.size,
    }
    return canonical.dumps({"proof": fact})
