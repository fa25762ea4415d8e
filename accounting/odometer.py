"""How much is spent: now, with reservations, and as it was at any time in the past.

The past is read from the entry that was the head then, because every entry carries the balances it
left behind. This module only reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import blocks, history, posting
from accounting import filter as admission
from accounting.blocks import Block
from accounting.posting import Balance
from accounting.quotas import QuotaBalance, quotas
from accounting.report import nonadaptive_epsilons
from accounting.tables import ENTRY, RESERVATION
from kit.clock import micros
from privacy_gateway import gdp, rdp
from privacy_gateway.errors import Refused


@dataclass(frozen=True, slots=True)
class Odometer:
    """A budget at one moment. Vectors in pico-nats, one number an order; ε in nats.

    Attributes:
        epsilon_spent: least ε the filter needed for what was charged.
        epsilon_reserved: how much more the reservations add to it.
        epsilon_remaining: ε minus both.
        quotas: of researchers and projects: spending, and shares where they are set.
        seq: the entry that was the head.
        blocks: what each block's people have spent; where there are blocks, all numbers above are
            those of the block that has spent most, so nobody has spent more.
    """

    population_id: str
    epsilon: float
    delta: float
    epsilon_spent: float
    epsilon_reserved: float
    epsilon_remaining: float
    orders: tuple[float, ...]
    limits: tuple[int, ...]
    charged: tuple[int, ...]
    reserved: tuple[int, ...]
    quotas: tuple[QuotaBalance, ...]
    frozen: bool
    seq: int
    blocks: tuple[BlockSpending, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockSpending:
    """What the people of one block have spent: what counts for everybody, and their own."""

    name: str
    clients: int
    epsilon_spent: float
    epsilon_reserved: float
    epsilon_remaining: float
    charged: tuple[int, ...]
    reserved: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SpendReport:
    """Total spending of a population read three ways; only the odometer is the guarantee.

    Attributes:
        epsilon_spent: the odometer.
        epsilon_rdp: full-δ RDP of what was charged, as if the plan had been fixed in advance.
        epsilon_pld: the same by privacy loss distributions; None where one of the mechanisms has
            none. Both hold for the non-adaptive reading only.
    """

    epsilon_spent: float
    epsilon_rdp: float
    epsilon_pld: float | None


def odometer(session: Session, population_id: str, *, at: datetime | None = None) -> Odometer:
    """A population's budget now, or as it was at `at`.

    Raises:
        Refused: `not_found` when there is no such population, or there was none yet.
    """
    now = posting.balance(session, population_id)
    if at is None:
        there = blocks.blocks(session, population_id) if now.blocks else []
        return _odometer(now, there, quotas(session, population_id))
    then = _past(session, now, at)
    return _odometer(then, *history.at(session, population_id, then.head_seq, now.terms.delta))


def spend_report(session: Session, population_id: str) -> SpendReport:
    """Total spending, with the non-adaptive readings beside the odometer. Takes seconds (PLD)."""
    now = posting.balance(session, population_id)
    rows = session.execute(
        sa.select(RESERVATION.c.mechanism, sa.func.sum(RESERVATION.c.rounds_charged))
        .where(RESERVATION.c.population_id == population_id, RESERVATION.c.rounds_charged > 0)
        .group_by(RESERVATION.c.mechanism)
    )
    spent = [(json.loads(text), int(rounds)) for text, rounds in rows]
    by_rdp, by_pld = nonadaptive_epsilons(spent, now.delta)
    return SpendReport(odometer(session, population_id).epsilon_spent, by_rdp, by_pld)


def _past(session: Session, now: Balance, at: datetime) -> Balance:
    """The balance that the head entry of that time left."""
    row = session.execute(
        sa.select(ENTRY.c.leaf, ENTRY.c.seq, ENTRY.c.hash)
        .where(ENTRY.c.population_id == now.population_id, ENTRY.c.at <= micros(at))
        .order_by(ENTRY.c.seq.desc())
        .limit(1)
    ).first()
    if row is None:
        raise Refused("not_found", f"population {now.population_id} was not open at that time")
    left: dict[str, Any] = json.loads(row.leaf)["balance"]
    terms = now.terms
    limits = gdp.limits_of(left["epsilon_nano"], terms.delta, terms.weights)
    return replace(
        now,
        terms=replace(terms, epsilon_nano=left["epsilon_nano"], limits=limits),
        charged=tuple(left["charged"]),
        reserved=tuple(left["reserved"]),
        frozen=left["frozen"],
        head_seq=row.seq,
        head_hash=row.hash,
    )


def _odometer(now: Balance, there: list[Block], shares: list[QuotaBalance]) -> Odometer:
    people = [blocks.person(now, block) for block in there]
    most = max(people, key=lambda one: (one.epsilon_committed, one.epsilon_spent), default=now)
    spent, reserved, remaining = _epsilons(most)
    return Odometer(
        population_id=now.population_id,
        epsilon=now.epsilon,
        delta=now.delta,
        epsilon_spent=spent,
        epsilon_reserved=reserved,
        epsilon_remaining=remaining,
        orders=now.terms.orders,
        limits=now.limits,
        charged=most.charged,
        reserved=most.reserved,
        quotas=tuple(shares),
        frozen=now.frozen,
        seq=now.head_seq,
        blocks=tuple(
            BlockSpending(block.name, block.clients, *_epsilons(one), one.charged, one.reserved)
            for block, one in zip(there, people, strict=True)
        ),
    )


def _epsilons(account: Balance) -> tuple[float, float, float]:
    """ε spent, reserved on top of it, and remaining."""
    terms = account.terms
    spent = admission.epsilon_spent_nano(terms, account.charged)
    total = admission.add(account.charged, account.reserved)
    committed = admission.epsilon_spent_nano(terms, total)
    remaining = max(0, terms.epsilon_nano - committed)
    return spent / rdp.NANO, (committed - spent) / rdp.NANO, remaining / rdp.NANO
