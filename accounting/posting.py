"""Balances, and the one function that moves them: every change is an entry that seals the last.

`lock` takes the rows of several populations in the order of their ids, so two jobs cannot wait for
each other. `post` writes the entry and the new balance in the same transaction; nothing else in
the house may write either table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting.balance import Balance, balance_of
from accounting.errors import conflict
from accounting.tables import ENTRY, POPULATION, RESERVATION
from kit import prepared
from kit.clock import from_micros, micros
from kit.prepared import Answer, Asked
from privacy_gateway import canonical, chain
from privacy_gateway.errors import Refused

__all__ = [
    "APPEND",
    "Balance",
    "Entry",
    "balance",
    "balance_of",
    "balances",
    "entry_of",
    "lock",
    "lock_of_job",
    "locking",
    "members",
    "open_chain",
    "post",
    "sealed",
    "store",
    "storing",
]

# Built once: composing a statement costs more than running it.
_SELECT = (
    sa.select(POPULATION)
    .where(POPULATION.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(POPULATION.c.id)
)
_LOCK = prepared.Prepared(
    sa.select(POPULATION).where(POPULATION.c.id == sa.bindparam("of_population")).with_for_update()
)
_LOCK_OF_JOB = prepared.Prepared(
    sa.select(POPULATION)
    .where(
        POPULATION.c.id
        == sa.select(RESERVATION.c.population_id)
        .where(RESERVATION.c.job_id == sa.bindparam("job"))
        .scalar_subquery()
    )
    .with_for_update()
)
_MOVE = prepared.Prepared(
    sa.update(POPULATION).where(
        POPULATION.c.id == sa.bindparam("of_population"),
        POPULATION.c.version == sa.bindparam("from_version"),
    ),
    "epsilon_nano",
    "limits",
    "charged",
    "reserved",
    "frozen",
    "version",
    "head_seq",
    "head_hash",
)
# Entries in the order of their `seq`; the database numbers them.
_GIVEN = [column.name for column in ENTRY.columns if column.name != "id"]
APPEND = prepared.Rows(ENTRY, _GIVEN)
_PLAIN = frozenset({int, str, bool, type(None)})
_APPEND_ONE = prepared.Prepared(sa.insert(ENTRY).returning(ENTRY.c.id), *_GIVEN)


@dataclass(frozen=True, slots=True)
class Entry:
    """One sealed ledger entry as read back: query columns, hashes and the whole leaf."""

    id: int
    population_id: str
    seq: int
    kind: str
    at: datetime
    job_id: str | None
    researcher_id: str | None
    actor_id: str | None
    round_first: int | None
    rounds: int | None
    attempt: int | None
    fence: int | None
    leaf: dict[str, Any]
    prev_hash: str
    hash: str


def balance(session: Session, population_id: str) -> Balance:
    """Read a population's balance without locking it.

    Raises:
        Refused: `not_found`.
    """
    return _read(session, _SELECT, [population_id])[population_id]


def balances(session: Session, *, owner_id: str | None = None) -> list[Balance]:
    """All populations, or one owner's, in the order of their ids."""
    query = sa.select(POPULATION).order_by(POPULATION.c.id)
    if owner_id is not None:
        query = query.where(POPULATION.c.owner_id == owner_id)
    return [balance_of(row) for row in session.execute(query)]


def lock(session: Session, population_ids: Iterable[str]) -> dict[str, Balance]:
    """Lock populations in id order until the transaction ends, and read them.

    Raises:
        Refused: `not_found`.
    """
    (found,) = prepared.ask(session, locking(population_ids))
    return found  # type: ignore[no-any-return]


def locking(population_ids: Iterable[str]) -> Asked[dict[str, Balance]]:
    """`lock`, as a part of a batch."""
    wanted = sorted(set(population_ids))

    def read(answers: Sequence[Answer]) -> dict[str, Balance]:
        return _all_of(wanted, (row for answer in answers for row in answer.rows))

    return Asked([(_LOCK, {"of_population": each}) for each in wanted], read)


def lock_of_job(session: Session, job_id: str) -> Balance:
    """Lock the population a job's reservation draws from.

    Raises:
        Refused: `not_found` for a job without reservation.
    """
    rows = prepared.one(session, _LOCK_OF_JOB, {"job": job_id}).rows
    if not rows:
        raise Refused("not_found", f"job {job_id} has no reservation")
    return balance_of(rows[0])


def post(
    session: Session,
    before: Balance,
    after: Balance,
    *,
    kind: str,
    now: datetime,
    body: Mapping[str, Any],
) -> Entry:
    """Append an entry that takes a locked population from `before` to `after`.

    Args:
        session: open transaction that holds the lock of `before`.
        before: the balance as locked.
        after: terms, vectors and freeze as they shall be; version and head are set here.
        kind: one of `tables.KINDS`.
        now: the entry's time.
        body: members of the leaf besides the common ones; None members are left out.

    Raises:
        Refused: `conflict` when `before` is not the present balance.
    """
    leaf = _leaf(before, after, kind, now, body)
    raw = chain.leaf_bytes(leaf)
    hashed = chain.seal(before.head_hash, raw)
    head = replace(after, version=before.version + 1, head_seq=leaf["seq"], head_hash=hashed)
    store(session, before, head)
    entry_id = _insert(session, leaf, raw, before.head_hash, hashed)
    return _entry(leaf, entry_id, before.head_hash, hashed)


def sealed(
    before: Balance,
    after: Balance,
    *,
    kind: str,
    now: datetime,
    body: Mapping[str, Any],
    written: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """The row of the entry that takes a locked population from `before` to `after`, for `APPEND`.

    Whoever stores it stores the balance too; see `accounting.book`. `written` are further members
    of the body that the query columns do not hold, as `members` wrote them.
    """
    leaf = _leaf(before, after, kind, now, body)
    parts = canonical.members(leaf)
    raw = canonical.joined({**parts, **(written or {})})
    return _row(leaf, raw, before.head_hash, chain.seal(before.head_hash, raw))


def members(body: Mapping[str, Any]) -> dict[str, bytes]:
    """Members of a leaf as `sealed` would write them, for whoever writes them often."""
    return canonical.members(
        {name: _plain(value) for name, value in body.items() if value is not None}
    )


def store(session: Session, before: Balance, after: Balance) -> None:
    """Write a balance over the one that was locked.

    Raises:
        Refused: `conflict` when `before` is not the present balance.
    """
    prepared.ask(session, storing(before, after))


def storing(before: Balance, after: Balance) -> Asked[None]:
    """`store`, as a part of a batch."""
    values = {
        "of_population": before.population_id,
        "from_version": before.version,
        "epsilon_nano": after.terms.epsilon_nano,
        "limits": after.terms.limits,
        "charged": after.charged,
        "reserved": after.reserved,
        "frozen": after.frozen,
        "version": after.version,
        "head_seq": after.head_seq,
        "head_hash": after.head_hash,
    }

    def read(answers: Sequence[Answer]) -> None:
        if answers[0].matched != 1:
            population = before.population_id
            raise conflict("the balance has moved since it was locked", population=population)

    return Asked([(_MOVE, values)], read)


def open_chain(
    session: Session, first: Balance, *, now: datetime, body: Mapping[str, Any]
) -> Entry:
    """Insert a population and its opening entry, the first of its chain."""
    leaf = _leaf(replace(first, head_seq=0), first, "open", now, body)
    raw = chain.leaf_bytes(leaf)
    sealed = chain.seal(chain.GENESIS, raw)
    session.execute(
        sa.insert(POPULATION).values(
            id=first.population_id,
            name=first.name,
            privacy_unit=first.privacy_unit,
            clients=first.clients,
            owner_id=first.owner_id,
            epsilon_nano=first.terms.epsilon_nano,
            delta=first.terms.delta,
            weights=first.terms.weights,
            limits=first.terms.limits,
            charged=first.charged,
            reserved=first.reserved,
            frozen=False,
            second_person=first.second_person,
            blocks=0,
            version=1,
            head_seq=1,
            head_hash=sealed,
            created_at=micros(now),
        )
    )
    return _entry(leaf, _insert(session, leaf, raw, chain.GENESIS, sealed), chain.GENESIS, sealed)


def entry_of(row: Any) -> Entry:
    """An entry from its table row."""
    return Entry(
        id=row.id,
        population_id=row.population_id,
        seq=row.seq,
        kind=row.kind,
        at=from_micros(row.at),
        job_id=row.job_id,
        researcher_id=row.researcher_id,
        actor_id=row.actor_id,
        round_first=row.round_first,
        rounds=row.rounds,
        attempt=row.attempt,
        fence=row.fence,
        leaf=json.loads(row.leaf),
        prev_hash=row.prev_hash,
        hash=row.hash,
    )


def _read(session: Session, query: sa.Select[Any], population_ids: list[str]) -> dict[str, Balance]:
    return _all_of(population_ids, session.execute(query, {"ids": population_ids}))


def _all_of(population_ids: Iterable[str], rows: Iterable[Any]) -> dict[str, Balance]:
    """The balances by id; every one that was asked for."""
    found = {row.id: balance_of(row) for row in rows}
    for population_id in population_ids:
        if population_id not in found:
            raise Refused("not_found", f"there is no population {population_id}")
    return found


def _leaf(
    before: Balance, after: Balance, kind: str, now: datetime, body: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole entry: common members, body, and the resulting balances."""
    leaf = {name: _plain(value) for name, value in body.items() if value is not None}
    return leaf | {
        "population": before.population_id,
        "seq": before.head_seq + 1,
        "kind": kind,
        "at": micros(now),
        "balance": {
            "epsilon_nano": after.terms.epsilon_nano,
            "charged": list(after.charged),
            "reserved": list(after.reserved),
            "frozen": after.frozen,
        },
    }


def _plain(value: Any) -> Any:
    """A leaf holds no floats; their shortest text says the same for ever."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        if _PLAIN.issuperset(map(type, value)):
            return list(value)
        return [_plain(member) for member in value]
    return value


def _insert(session: Session, leaf: dict[str, Any], raw: bytes, prev: str, hashed: str) -> int:
    (row,) = prepared.one(session, _APPEND_ONE, _row(leaf, raw, prev, hashed)).rows
    return int(row.id)


def _row(leaf: dict[str, Any], raw: bytes, prev: str, hashed: str) -> dict[str, Any]:
    """The entry's columns."""
    return {
        "population_id": leaf["population"],
        "seq": leaf["seq"],
        "kind": leaf["kind"],
        "at": leaf["at"],
        "job_id": leaf.get("job"),
        "researcher_id": leaf.get("researcher"),
        "actor_id": leaf.get("actor"),
        "round_first": leaf.get("round_first"),
        "rounds": leaf.get("rounds"),
        "attempt": leaf.get("attempt"),
        "fence": leaf.get("fence"),
        "leaf": raw.decode(),
        "prev_hash": prev,
        "hash": hashed,
    }


def _entry(leaf: dict[str, Any], entry_id: int, prev: str, sealed: str) -> Entry:
    return Entry(
        id=entry_id,
        population_id=leaf["population"],
        seq=leaf["seq"],
        kind=leaf["kind"],
        at=from_micros(leaf["at"]),
        job_id=leaf.get("job"),
        researcher_id=leaf.get("researcher"),
        actor_id=leaf.get("actor"),
        round_first=leaf.get("round_first"),
        rounds=leaf.get("rounds"),
        attempt=leaf.get("attempt"),
        fence=leaf.get("fence"),
        leaf=leaf,
        prev_hash=prev,
        hash=sealed,
    )
