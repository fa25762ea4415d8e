"""A researcher's share of a population's budget: fairness, never the guarantee.

Spending is tracked for every researcher from the first reservation, so a quota set later already
knows the past. A quota is checked and debited in the same transaction as the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from accounting import filter as admission
from accounting import posting
from accounting.budget import Terms, epsilon_nano_of, terms_of
from accounting.posting import Entry
from accounting.tables import QUOTA
from privacy_gateway import rdp

# Built once: composing a statement costs more than running it.
_ONE = (
    QUOTA.c.population_id == sa.bindparam("population"),
    QUOTA.c.researcher_id == sa.bindparam("researcher"),
)
_SELECT = sa.select(QUOTA).where(*_ONE)
_UPDATE = sa.update(QUOTA).where(*_ONE)
_INSERT = sa.insert(QUOTA)
_HOLD = {
    dialect: made.on_conflict_do_update(
        index_elements=["population_id", "researcher_id"],
        set_={"reserved": made.excluded.reserved},
    )
    for dialect, made in (
        ("sqlite", sqlite_insert(QUOTA)),
        ("postgresql", postgresql_insert(QUOTA)),
    )
}


@dataclass(frozen=True, slots=True)
class QuotaBalance:
    """One researcher's spending in one population; `terms` is None where no quota is set."""

    population_id: str
    researcher_id: str
    terms: Terms | None
    charged: tuple[int, ...]
    reserved: tuple[int, ...]

    @property
    def limits(self) -> tuple[int, ...]:
        """B(a) of the share; without a quota nothing limits but the budget."""
        return (rdp.INT64_MAX,) * len(self.charged) if self.terms is None else self.terms.limits

    @property
    def epsilon(self) -> float | None:
        """The share's ε."""
        return None if self.terms is None else self.terms.epsilon

    @property
    def epsilon_spent(self) -> float | None:
        """Odometer of the researcher's charges, measured by the share's terms."""
        if self.terms is None:
            return None
        return admission.epsilon_spent_nano(self.terms, self.charged) / rdp.NANO

    def admits(self, cost: tuple[int, ...]) -> bool:
        """Whether the share has room for `cost`."""
        return admission.admits(self.limits, self.charged, self.reserved, cost)


def quota(
    session: Session, population_id: str, researcher_id: str, *, delta: str | None = None
) -> QuotaBalance:
    """A researcher's spending; all zero before the first reservation.

    Args:
        session: reads only.
        population_id: whose budget.
        researcher_id: whose spending.
        delta: the budget's δ text, when the caller has it at hand.
    """
    wanted = {"population": population_id, "researcher": researcher_id}
    row = session.execute(_SELECT, wanted).one_or_none()
    if row is None:
        return nothing(population_id, researcher_id)
    return balance_of(row, delta or _delta(session, population_id))


def nothing(population_id: str, researcher_id: str) -> QuotaBalance:
    """A researcher who has no quota and has spent nothing."""
    return QuotaBalance(population_id, researcher_id, None, admission.zero(), admission.zero())


def quotas(session: Session, population_id: str) -> list[QuotaBalance]:
    """Every researcher who has spent or may spend, in the order of their ids."""
    delta = _delta(session, population_id)
    rows = session.execute(
        sa.select(QUOTA)
        .where(QUOTA.c.population_id == population_id)
        .order_by(QUOTA.c.researcher_id)
    )
    return [balance_of(row, delta) for row in rows]


def set_quota(
    session: Session,
    *,
    population_id: str,
    researcher_id: str,
    epsilon: float,
    actor_id: str,
    now: datetime,
    reason: str = "quota set",
) -> Entry:
    """Give a researcher a share of ε, replacing an earlier one; spending so far counts.

    Raises:
        Refused: `not_found`; `invalid_request` naming `epsilon`.
    """
    before = posting.lock(session, [population_id])[population_id]
    terms = terms_of(epsilon_nano_of(epsilon), before.delta)
    present = quota(session, population_id, researcher_id, delta=before.terms.delta)
    store(session, present, terms=terms)
    body = {
        "researcher": researcher_id,
        "actor": actor_id,
        "reason": reason,
        "quota": {"epsilon_nano": terms.epsilon_nano, "weights": list(terms.weights)},
    }
    return posting.post(session, before, before, kind="quota", now=now, body=body)


def store(
    session: Session,
    present: QuotaBalance,
    *,
    charged: tuple[int, ...] | None = None,
    reserved: tuple[int, ...] | None = None,
    terms: Terms | None = None,
) -> None:
    """Write a researcher's row; the population's lock is held by the caller."""
    kept = terms if terms is not None else present.terms
    values: dict[str, Any] = {
        "charged": present.charged if charged is None else charged,
        "reserved": present.reserved if reserved is None else reserved,
        "epsilon_nano": None if kept is None else kept.epsilon_nano,
        "weights": None if kept is None else kept.weights,
        "limits": None if kept is None else kept.limits,
    }
    key = {"population": present.population_id, "researcher": present.researcher_id}
    if posting.matched(session.execute(_UPDATE, key | values)) == 0:
        names = {"population_id": present.population_id, "researcher_id": present.researcher_id}
        session.execute(_INSERT, names | values)


def store_reserved(session: Session, shares: Sequence[QuotaBalance]) -> None:
    """Write what these researchers hold; rows are made for those who had none.

    The populations' locks are held by the caller.
    """
    if not shares:
        return
    dialect = session.get_bind().dialect.name
    rows = [
        {
            "population_id": share.population_id,
            "researcher_id": share.researcher_id,
            "charged": share.charged,
            "reserved": share.reserved,
        }
        for share in shares
    ]
    session.connection().execute(_HOLD[dialect], rows)


def _delta(session: Session, population_id: str) -> str:
    return posting.balance(session, population_id).terms.delta


def balance_of(row: Any, delta: str) -> QuotaBalance:
    """A share from its table row; `delta` is the budget's δ text."""
    terms = None
    if row.epsilon_nano is not None:
        terms = Terms(row.epsilon_nano, delta, row.weights, row.limits)
    return QuotaBalance(row.population_id, row.researcher_id, terms, row.charged, row.reserved)
