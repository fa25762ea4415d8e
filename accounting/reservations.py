"""Reservations: what a job may still charge, and how its row is found and locked.

A reservation is written by the ledger's verbs only. It is closed once and for ever; nothing here
may raise what it holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import blocks, posting, quotas
from accounting import filter as admission
from accounting.blocks import EVERYBODY, Block, Target
from accounting.curve import ENGINE, Price
from accounting.errors import budget_exceeded, conflict, frozen, quota_exceeded
from accounting.filter import Vector
from accounting.mechanism import MAX_ROUNDS, Mechanism, check_count
from accounting.posting import Balance
from accounting.quotas import QuotaBalance
from accounting.tables import ENTRY, RESERVATION
from kit import prepared
from kit.clock import micros
from privacy_gateway import canonical, rdp

# Built once: composing a statement costs more than running it.
_SELECT = prepared.Prepared(
    sa.select(RESERVATION).where(RESERVATION.c.job_id == sa.bindparam("job"))
)
INSERT = prepared.Rows(RESERVATION)
_DRAW = prepared.Prepared(
    sa.update(RESERVATION).where(RESERVATION.c.job_id == sa.bindparam("of_job")),
    "rounds_charged",
    "fence",
    "closed",
)
_NEAREST = prepared.Prepared(
    sa.select(ENTRY.c.seq, ENTRY.c.round_first, ENTRY.c.rounds)
    .where(
        ENTRY.c.job_id == sa.bindparam("job"),
        ENTRY.c.attempt == sa.bindparam("in_attempt"),
        ENTRY.c.round_first < sa.bindparam("end"),
    )
    .order_by(ENTRY.c.round_first.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Held:
    """A job's reservation."""

    job_id: str
    population_id: str
    researcher_id: str
    project: str | None
    block: str | None
    mechanism: dict[str, Any]
    mechanism_digest: str
    per_round: tuple[int, ...]
    whole: bool
    rounds_reserved: int
    rounds_charged: int
    fence: int
    closed: bool
    lease_expires_at: int

    @property
    def rounds_left(self) -> int:
        """Rounds that may still be charged."""
        return 0 if self.closed else self.rounds_reserved - self.rounds_charged

    def cost(self, rounds: int) -> tuple[int, ...]:
        """Cost vector of `rounds`, pico-nats."""
        return tuple(part * rounds for part in self.per_round)


def held(session: Session, job_id: str) -> Held | None:
    """A job's reservation, or None."""
    rows = prepared.one(session, _SELECT, {"job": job_id}).rows
    return _held(rows[0]) if rows else None


def _held(row: Any) -> Held:
    return Held(
        job_id=row.job_id,
        population_id=row.population_id,
        researcher_id=row.researcher_id,
        project=row.project,
        block=row.block,
        mechanism=json.loads(row.mechanism),
        mechanism_digest=row.mechanism_digest,
        per_round=row.per_round,
        whole=row.whole,
        rounds_reserved=row.rounds_reserved,
        rounds_charged=row.rounds_charged,
        fence=row.fence,
        closed=row.closed,
        lease_expires_at=row.lease_expires_at,
    )


def renew_lease(session: Session, job_id: str, lease_expires_at: datetime) -> None:
    """Move the end of a reservation's lease; no entry, nothing is spent or given back."""
    session.execute(
        sa.update(RESERVATION)
        .where(RESERVATION.c.job_id == job_id, sa.not_(RESERVATION.c.closed))
        .values(lease_expires_at=micros(lease_expires_at))
    )


def insert(
    session: Session,
    purse: Purse,
    job_id: str,
    researcher_id: str,
    price: Price,
    rounds: int,
    times: tuple[datetime, datetime],
) -> None:
    """Write a new reservation; `times` are its making and the end of its lease."""
    rows = [row(purse, job_id, researcher_id, price, rounds, times)]
    prepared.ask(session, prepared.nothing([(INSERT, rows)]))


def row(
    purse: Purse,
    job_id: str,
    researcher_id: str,
    price: Price,
    rounds: int,
    times: tuple[datetime, datetime],
) -> dict[str, Any]:
    """The columns of a new reservation, for `INSERT`."""
    return {
        "job_id": job_id,
        "population_id": purse.balance.population_id,
        "researcher_id": researcher_id,
        "project": purse.project,
        "block": purse.target.name,
        "mechanism": _mechanism_text(price.mechanism),
        "mechanism_digest": price.mechanism_digest,
        "per_round": price.per_round,
        "whole": price.mechanism.whole,
        "rounds_reserved": rounds,
        "rounds_charged": 0,
        "fence": 0,
        "closed": False,
        "created_at": micros(times[0]),
        "lease_expires_at": micros(times[1]),
    }


@dataclass(frozen=True, slots=True)
class Purse:
    """Everything a job draws on, read under the population's lock.

    Attributes:
        balance: the population.
        shares: of the researcher, and of the project where the job names one.
        target: whom the cost counts for.
    """

    balance: Balance
    shares: tuple[QuotaBalance, ...]
    target: Target = EVERYBODY

    @property
    def project(self) -> str | None:
        """The project the job is charged to."""
        return next((share.holder_id for share in self.shares if share.kind == "project"), None)

    def moved(self, **move: Vector) -> Drawn:
        """Everything after a `hold`, a `spend` out of one, or its `release`, pico-nats."""
        balance, block = self.target.moved(self.balance, **move)
        shares = tuple(blocks.shifted(share, **move) for share in self.shares)
        return Drawn(balance, shares, block)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A purse after a move; `block` is None where everybody's balance moved."""

    balance: Balance
    shares: tuple[QuotaBalance, ...]
    block: Block | None

    def facts(self) -> dict[str, Any]:
        """What the entry says beside population and price."""
        project = next((share.holder_id for share in self.shares if share.kind == "project"), None)
        return {"project": project} | ({} if self.block is None else self.block.facts())


def purse(
    session: Session, balance: Balance, researcher_id: str, project: str | None, block: str | None
) -> Purse:
    """What a job would draw on; `balance` is locked.

    Raises:
        Refused: `not_found` for a block that was never opened.
    """
    delta = balance.terms.delta
    return Purse(
        balance,
        quotas.shares(session, balance.population_id, researcher_id, project, delta=delta),
        blocks.target(session, balance, block),
    )


def affordable(purse: Purse, price: Price, rounds: int) -> Drawn:
    """The purse after a reservation of `rounds`: the one decision whether it may be made.

    Raises:
        Refused: `frozen`, `budget_exceeded`, `quota_exceeded`, `price_overflow`, or
            `invalid_request` on `rounds`, `clients`, or what chose the mechanism.
    """
    balance = purse.balance
    if balance.frozen:
        raise frozen(balance.population_id)
    seen = purse.target.seen(balance)
    seen.check_mechanism(price.mechanism)
    check_count("rounds", rounds, MAX_ROUNDS)
    cost = price.total(rounds)
    admission.add(seen.charged, admission.add(seen.reserved, cost))
    if not seen.admits(cost):
        raise budget_exceeded(
            balance.population_id,
            epsilon=seen.epsilon,
            spent=seen.epsilon_committed,
            after=seen.epsilon_after(cost),
        )
    for share in purse.shares:
        if not share.admits(cost):
            raise quota_exceeded(
                share.holder_id,
                epsilon=share.epsilon,
                spent=share.epsilon_spent,
                holder=share.kind,
            )
    return purse.moved(hold=cost)


def lock_purse(session: Session, job_id: str) -> tuple[Purse, Held]:
    """Lock what a job draws on, then read its reservation under the lock.

    Raises:
        Refused: `not_found` for a job without reservation.
    """
    before, present = lock_job(session, job_id)
    found = purse(session, before, present.researcher_id, present.project, present.block)
    return found, present


def lock_job(session: Session, job_id: str) -> tuple[Balance, Held]:
    """Lock the job's population, then read the reservation under the lock.

    Raises:
        Refused: `not_found` for a job without reservation.
    """
    before = posting.lock_of_job(session, job_id)
    # The population was found by it, and a reservation is never deleted.
    (row,) = prepared.one(session, _SELECT, {"job": job_id}).rows
    return before, _held(row)


def draw(session: Session, job_id: str, *, rounds_charged: int, fence: int, closed: bool) -> None:
    """Write what has been charged from a locked reservation, and whether it is closed."""
    values = {"rounds_charged": rounds_charged, "fence": fence, "closed": closed}
    prepared.one(session, _DRAW, {"of_job": job_id, **values})


def refuse_second_charge(
    session: Session, job_id: str, round_first: int, rounds: int, attempt: int
) -> None:
    """(job, round, attempt) is the key; blocks of one attempt must not overlap.

    Blocks of an attempt are disjoint, so only the last one that starts before the end can reach in.
    """
    wanted = {"job": job_id, "in_attempt": attempt, "end": round_first + rounds}
    for nearest in prepared.one(session, _NEAREST, wanted).rows:
        if nearest.round_first + nearest.rounds > round_first:
            raise conflict(
                "the round was charged before in this attempt; a repetition is a new attempt",
                job=job_id,
                attempt=attempt,
                seq=nearest.seq,
            )


def bearing(
    mechanism: Mapping[str, Any],
    digest: str,
    per_round: tuple[int, ...],
    rounds: int,
    job_id: str,
    researcher_id: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Members every charge-bearing entry carries; `digest` is the mechanism's."""
    return {
        **whose(job_id, researcher_id, facts),
        "rounds": rounds,
        **_priced(mechanism, digest, per_round, rounds),
    }


def whose(job_id: str, researcher_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The members of `bearing` that are each job's own."""
    return {
        "job": job_id,
        "researcher": researcher_id,
        "actor": facts.get("actor"),
        "facts": dict(facts),
    }


@lru_cache(maxsize=4096)
def written(price: Price, rounds: int) -> Mapping[str, bytes]:
    """The members of `bearing` that equal prices share, but `rounds`, as a leaf has them."""
    mechanism = price.mechanism
    return posting.members(
        _priced(mechanism.canonical(), price.mechanism_digest, price.per_round, rounds)
    )


def _priced(
    mechanism: Mapping[str, Any], digest: str, per_round: tuple[int, ...], rounds: int
) -> dict[str, Any]:
    return {
        "mechanism": dict(mechanism),
        "mechanism_digest": digest,
        "event": rdp.event_text(mechanism),
        "engine": ENGINE,
        "per_round": list(per_round),
        "cost": [part * rounds for part in per_round],
    }


@lru_cache(maxsize=4096)
def _mechanism_text(mechanism: Mechanism) -> str:
    return canonical.dumps(mechanism.canonical()).decode()
