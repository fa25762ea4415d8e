"""Builders shared by the accountant's tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from accounting import ledger
from accounting.calculator import EmptyBudget
from accounting.curve import Price, price
from accounting.mechanism import Mechanism
from accounting.plan import TrainingPlan
from kit.db import Database
from privacy_gateway.errors import Refused

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors.json").read_text(encoding="utf-8")
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ZERO = (0,) * 16
SOON = NOW + timedelta(hours=1)
FACTS = {"actor": "usr_worker", "policy_revision": 3, "decision_digest": "d" * 64}

__all__ = ["FACTS", "NOW", "SOON", "VECTORS", "ZERO", "EmptyBudget"]


def fraction(q: float) -> tuple[int, int]:
    """(m, N) whose quotient is q."""
    for clients in (1, 3, 10, 100, 1000, 3383, 10_000, 100_000, 10**9):
        size = round(q * clients)
        if size and abs(size / clients - q) < 1e-15:
            return size, clients
    raise AssertionError(q)


def poisson(q: float, noise: float) -> Mechanism:
    """The Poisson-sampled Gaussian with sampling rate q, or the plain one at q = 1."""
    if q == 1:
        return Mechanism("gaussian", noise)
    size, clients = fraction(q)
    return Mechanism("poisson_gaussian", noise, clients, size)


def job_price(clients: int = 1000, size: int = 10, noise: float = 1.0) -> Price:
    """Price of one round of an ordinary job."""
    return price(TrainingPlan(clients, size, 1, noise).mechanism)


def open_population(
    session: Session, population_id: str = "pop_a", *, epsilon: float = 8.0, **options: Any
) -> ledger.Balance:
    """A population of a thousand people."""
    values: dict[str, Any] = {
        "name": population_id,
        "privacy_unit": "person",
        "clients": 1000,
        "delta": 1e-6,
        "owner_id": "usr_owner",
        "now": NOW,
    }
    return ledger.open_population(
        session, population_id=population_id, epsilon=epsilon, **(values | options)
    )


def reserve(
    session: Session,
    job_id: str,
    *,
    population_id: str = "pop_a",
    rounds: int = 100,
    cost: Price | None = None,
    researcher_id: str = "usr_r",
    project: str | None = None,
) -> ledger.Entry:
    """Lock and reserve, as admission does."""
    balance = ledger.lock(session, [population_id])[population_id]
    return ledger.reserve(
        session,
        balance,
        job_id=job_id,
        researcher_id=researcher_id,
        price=cost or job_price(),
        rounds=rounds,
        facts=FACTS,
        now=NOW,
        lease_expires_at=SOON,
        project=project,
    )


def charge(
    session: Session,
    job_id: str,
    round_first: int = 1,
    rounds: int = 5,
    attempt: int = 1,
    fence: int = 1,
) -> ledger.Charge:
    """Charge a block, as a worker does."""
    return ledger.charge(
        session,
        job_id=job_id,
        round_first=round_first,
        rounds=rounds,
        attempt=attempt,
        fence=fence,
        facts=FACTS,
        now=NOW,
    )


def settle(session: Session, job_id: str, reason: str = "completed") -> ledger.Entry | None:
    """Settle, as the end of a job does."""
    return ledger.settle(session, job_id=job_id, reason=reason, facts=FACTS, now=NOW)


def refusal_of(act: Callable[[], object]) -> Refused | None:
    """What `act` was refused with, or None when it went through."""
    try:
        act()
    except Refused as refusal:
        return refusal
    return None


def code_of(act: Callable[[], object]) -> str:
    """Code of the refusal that `act` must end in."""
    refusal = refusal_of(act)
    assert refusal is not None, "nothing was refused"
    return refusal.code


def times(rounds: int) -> tuple[int, ...]:
    """Cost of rounds of the ordinary job."""
    return tuple(part * rounds for part in job_price().per_round)


def balance(database: Database, population_id: str = "pop_a") -> ledger.Balance:
    """The present balance."""
    with database.read() as session:
        return ledger.balance(session, population_id)


def export(database: Database) -> list[bytes]:
    """The whole export."""
    with database.read() as session:
        return list(ledger.export_lines(session))
