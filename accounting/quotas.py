"""Shares of a population's budget, of researchers and of projects: fairness, never the guarantee.

Spending is tracked for everybody from the first reservation, so a quota set later already knows
the past; it is the sum over all blocks of people. A quota is checked and debited in the same
transaction as the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import filter as admission
from accounting import posting
from accounting.budget import Terms, epsilon_nano_of, terms_of
from accounting.posting import Entry
from accounting.tables import QUOTA
from accounting.tables_scope import PROJECT_QUOTA
from kit import prepared
from kit.prepared import Asked
from privacy_gateway import rdp

Kind = Literal["researcher", "project"]


class _Statements:
    """What is asked of one of the two tables; built once, composing costs more than running."""

    def __init__(self, table: sa.Table, column: str) -> None:
        self.table, self.holder = table, table.c[column]
        one = (
            table.c.population_id == sa.bindparam("population"),
            self.holder == sa.bindparam("holder"),
        )
        whole = ("charged", "reserved", "epsilon_nano", "weights", "limits")
        self.select = prepared.Prepared(sa.select(table).where(*one))
        self.update = prepared.Prepared(sa.update(table).where(*one), *whole)
        self.insert = prepared.Prepared(sa.insert(table), "population_id", column, *whole)
        self.all = (
            sa.select(table)
            .where(table.c.population_id == sa.bindparam("population"))
            .order_by(self.holder)
        )
        self.hold = prepared.Rows(
            table,
            ["population_id", column, "charged", "reserved"],
            lambda made: made.on_conflict_do_update(
                index_elements=["population_id", column],
                set_={"reserved": made.excluded.reserved},
            ),
        )

    def names(self, share: QuotaBalance) -> dict[str, str]:
        """The primary key."""
        return {"population_id": share.population_id, self.holder.key: share.holder_id}


_OF: Final[dict[Kind, _Statements]] = {
    "researcher": _Statements(QUOTA, "researcher_id"),
    "project": _Statements(PROJECT_QUOTA, "project"),
}


@dataclass(frozen=True, slots=True)
class QuotaBalance:
    """One holder's spending in one population; `terms` is None where no quota is set.

    `holder_id` is a researcher's id or a project's name, by `kind`.
    """

    population_id: str
    holder_id: str
    terms: Terms | None
    charged: tuple[int, ...]
    reserved: tuple[int, ...]
    kind: Kind = "researcher"

    @property
    def researcher_id(self) -> str:
        """The holder of a researcher's share."""
        return self.holder_id

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
        """Odometer of the holder's charges, measured by the share's terms."""
        if self.terms is None:
            return None
        return admission.epsilon_spent_nano(self.terms, self.charged) / rdp.NANO

    def admits(self, cost: tuple[int, ...]) -> bool:
        """Whether the share has room for `cost`."""
        return admission.admits(self.limits, self.charged, self.reserved, cost)


def quota(
    session: Session,
    population_id: str,
    holder_id: str,
    *,
    kind: Kind = "researcher",
    delta: str | None = None,
) -> QuotaBalance:
    """One holder's spending; all zero before the first reservation.

    Args:
        session: reads only.
        population_id: whose budget.
        holder_id: whose spending: a researcher's id, or a project's name.
        kind: which of the two.
        delta: the budget's δ text, when the caller has it at hand.
    """
    wanted = {"population": population_id, "holder": holder_id}
    rows = prepared.one(session, _OF[kind].select, wanted).rows
    if not rows:
        return nothing(population_id, holder_id, kind)
    return balance_of(rows[0], delta or _delta(session, population_id), kind)


def shares(
    session: Session,
    population_id: str,
    researcher_id: str,
    project: str | None,
    *,
    delta: str | None = None,
) -> tuple[QuotaBalance, ...]:
    """Everybody whose share a job of this researcher, and of this project if any, draws on."""
    found = [quota(session, population_id, researcher_id, delta=delta)]
    if project is not None:
        found.append(quota(session, population_id, project, kind="project", delta=delta))
    return tuple(found)


def nothing(population_id: str, holder_id: str, kind: Kind) -> QuotaBalance:
    """A holder who has no quota and has spent nothing."""
    zero = admission.zero()
    return QuotaBalance(population_id, holder_id, None, zero, zero, kind)


def quotas(session: Session, population_id: str) -> list[QuotaBalance]:
    """Everybody who has spent or may spend: researchers by id, then projects by name."""
    delta = _delta(session, population_id)
    return [
        balance_of(row, delta, kind)
        for kind, statements in _OF.items()
        for row in session.execute(statements.all, {"population": population_id})
    ]


def set_quota(
    session: Session,
    *,
    population_id: str,
    researcher_id: str,
    epsilon: float,
    actor_id: str,
    now: datetime,
    kind: Kind = "researcher",
    reason: str = "quota set",
) -> Entry:
    """Give a researcher a share of ε, replacing an earlier one; spending so far counts.

    With `kind` `project`, `researcher_id` is the project's name.

    Raises:
        Refused: `not_found`; `invalid_request` naming `epsilon`.
    """
    before = posting.lock(session, [population_id])[population_id]
    terms = terms_of(epsilon_nano_of(epsilon), before.delta, filter=before.terms.filter)
    present = quota(session, population_id, researcher_id, kind=kind, delta=before.terms.delta)
    store(session, [replace(present, terms=terms)])
    body = {
        kind: researcher_id,
        "actor": actor_id,
        "reason": reason,
        "quota": {"epsilon_nano": terms.epsilon_nano, "weights": list(terms.weights)},
    }
    return posting.post(session, before, before, kind="quota", now=now, body=body)


def store(session: Session, shares: Sequence[QuotaBalance]) -> None:
    """Write whole rows; the population's lock is held by the caller."""
    for share in shares:
        statements, terms = _OF[share.kind], share.terms
        values: dict[str, Any] = {
            "charged": share.charged,
            "reserved": share.reserved,
            "epsilon_nano": None if terms is None else terms.epsilon_nano,
            "weights": None if terms is None else terms.weights,
            "limits": None if terms is None else terms.limits,
        }
        key = {"population": share.population_id, "holder": share.holder_id}
        if prepared.one(session, statements.update, key | values).matched == 0:
            prepared.one(session, statements.insert, statements.names(share) | values)


def store_reserved(session: Session, shares: Sequence[QuotaBalance]) -> None:
    """Write what these holders hold; rows are made for those who had none.

    The populations' locks are held by the caller.
    """
    prepared.ask(session, storing_reserved(shares))


def storing_reserved(shares: Sequence[QuotaBalance]) -> Asked[None]:
    """`store_reserved`, as a part of a batch."""
    rows: dict[Kind, list[dict[str, Any]]] = {}
    for share in shares:
        held = {"charged": share.charged, "reserved": share.reserved}
        rows.setdefault(share.kind, []).append(_OF[share.kind].names(share) | held)
    return prepared.nothing([(_OF[kind].hold, rows[kind]) for kind in _OF if kind in rows])


def _delta(session: Session, population_id: str) -> str:
    return posting.balance(session, population_id).terms.delta


def balance_of(row: Any, delta: str, kind: Kind) -> QuotaBalance:
    """A share from its table row; `delta` is the budget's δ text."""
    terms = None
    if row.epsilon_nano is not None:
        terms = Terms(row.epsilon_nano, delta, row.weights, row.limits)
    holder = getattr(row, _OF[kind].holder.key)
    return QuotaBalance(row.population_id, holder, terms, row.charged, row.reserved, kind)
