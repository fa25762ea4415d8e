"""How much is spent: now, with reservations, and as it was at any time in the past.

The past is read from the entry that was the head then, because every entry carries the balances it
left behind. This module only reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import filter as admission
from accounting import posting
from accounting.budget import Terms
from accounting.quotas import QuotaBalance, quotas
from accounting.report import nonadaptive_epsilons
from accounting.tables import ENTRY, POPULATION, RESERVATION
from kit.clock import micros
from privacy_gateway import rdp
from privacy_gateway.errors import Refused


@dataclass(frozen=True, slots=True)
class Odometer:
    """A budget at one moment. Vectors in pico-nats, one number an order; ε in nats.

    Attributes:
        epsilon_spent: least ε the filter needed for what was charged.
        epsilon_reserved: how much more the reservations add to it.
        epsilon_remaining: ε minus both.
        quotas: researchers' shares; empty for a moment in the past.
        seq: the entry that was the head.
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
    if at is None:
        now = posting.balance(session, population_id)
        shares = tuple(quotas(session, population_id))
        state = (now.terms, now.charged, now.reserved, now.frozen, now.head_seq)
        return _odometer(population_id, *state, shares)
    return _odometer(population_id, *_past(session, population_id, at), ())


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
    return SpendReport(now.epsilon_spent, by_rdp, by_pld)


def _past(
    session: Session, population_id: str, at: datetime
) -> tuple[Terms, tuple[int, ...], tuple[int, ...], bool, int]:
    """Terms and balance as the head entry of that time left them."""
    row = session.execute(
        sa.select(ENTRY.c.leaf, POPULATION.c.delta, POPULATION.c.weights)
        .join(POPULATION, POPULATION.c.id == ENTRY.c.population_id)
        .where(ENTRY.c.population_id == population_id, ENTRY.c.at <= micros(at))
        .order_by(ENTRY.c.seq.desc())
        .limit(1)
    ).first()
    if row is None:
        raise Refused("not_found", f"population {population_id} was not open at that time")
    leaf: dict[str, Any] = json.loads(row.leaf)
    left = leaf["balance"]
    limits = rdp.limits(left["epsilon_nano"], row.delta, row.weights)
    terms = Terms(left["epsilon_nano"], row.delta, row.weights, limits)
    return terms, tuple(left["charged"]), tuple(left["reserved"]), left["frozen"], leaf["seq"]


def _odometer(
    population_id: str,
    terms: Terms,
    charged: tuple[int, ...],
    reserved: tuple[int, ...],
    frozen: bool,
    seq: int,
    shares: tuple[QuotaBalance, ...],
) -> Odometer:
    spent = admission.epsilon_spent_nano(terms, charged)
    committed = admission.epsilon_spent_nano(terms, admission.add(charged, reserved))
    return Odometer(
        population_id=population_id,
        epsilon=terms.epsilon,
        delta=terms.delta_float,
        epsilon_spent=spent / rdp.NANO,
        epsilon_reserved=(committed - spent) / rdp.NANO,
        epsilon_remaining=max(0, terms.epsilon_nano - committed) / rdp.NANO,
        orders=terms.orders,
        limits=terms.limits,
        charged=charged,
        reserved=reserved,
        quotas=shares,
        frozen=frozen,
        seq=seq,
    )
