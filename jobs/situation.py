"""The facts a request is judged against, read at one moment: data set, budget, rules, history.

A situation is read twice: without a lock for quotes and for asking the policy, and again under
the budget's lock at admission. `versions` says whether anything that was decided on has moved in
between. It must never hold anything computed on clients' data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import filter as budget_filter
from accounting import ledger
from accounting.budget import Terms
from accounting.ledger import Balance, QuotaBalance
from jobs.principal import Principal
from jobs.tables import Job
from jobs.tables_datasets import Dataset
from kit.clock import from_micros
from policies import revisions
from policies.engine import Revision
from privacy_gateway.errors import FieldError, Refused

_JOB = Job.__table__  # type: ignore[attr-defined]
_DATASET = Dataset.__table__  # type: ignore[attr-defined]

# Built once: this is read on every quote.
_DATASET_BY_ID = sa.select(_DATASET).where(_DATASET.c.id == sa.bindparam("dataset_id"))
_JOBS_BY_SUBJECT = sa.select(sa.func.count(), sa.func.max(_JOB.c.created_at)).where(
    _JOB.c.researcher_id == sa.bindparam("researcher_id"),
    _JOB.c.population_id == sa.bindparam("population_id"),
)


@dataclass(frozen=True, slots=True)
class History:
    """What one researcher did on one population before.

    `charged_nano` counts reservations too: a limit on one person's spending must not be passed by
    many jobs at once.
    """

    jobs: int
    charged_nano: int
    last_job_at: datetime | None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything outside the request that its price and verdict depend on.

    Attributes:
        dataset: the immutable version that is asked for.
        balance: its people's budget; `clients` is their public number.
        share: the researcher's own part of it, None without a quota.
        revision: the owner's active policy.
        history: what this researcher did before.
    """

    dataset: Dataset
    balance: Balance
    share: QuotaBalance | None
    revision: Revision
    history: History

    @property
    def versions(self) -> tuple[str, int, bool, int]:
        """Changes whenever a decision made on this situation could come out otherwise."""
        return (
            self.revision.id,
            self.dataset.version,
            self.dataset.frozen,
            self.balance.version,
        )

    def admits(self, cost: tuple[int, ...]) -> bool:
        """Whether budget and quota both have room for a cost vector, in pico-nats."""
        return self.budget_admits(cost) and self.share_admits(cost)

    def budget_admits(self, cost: tuple[int, ...]) -> bool:
        """Whether the population's budget has room."""
        return self.balance.admits(cost)

    def share_admits(self, cost: tuple[int, ...]) -> bool:
        """Whether the researcher's quota has room; always without a quota."""
        return self.share is None or self.share.admits(cost)


def read(
    session: Session, principal: Principal, dataset_id: str, *, revision: Revision | None = None
) -> Situation:
    """The situation of one caller and one data set, as this transaction sees it.

    `revision` stands in for the active policy in a dry run.

    Raises:
        Refused: `not_found` for a data set that is absent, has no active policy, or belongs to
            another owner; the three look alike.
    """
    dataset = _dataset(session, principal, dataset_id)
    revision = revision or revisions.active(session, dataset_id)
    if dataset is None or revision is None:
        raise _nowhere(dataset_id)
    balance = ledger.balance(session, dataset.population_id)
    quota = ledger.quota(session, balance.population_id, principal.id, delta=balance.terms.delta)
    return Situation(
        dataset=dataset,
        balance=balance,
        share=None if quota.terms is None else quota,
        revision=revision,
        history=_history(session, principal, balance, quota),
    )


def charged_nano(balance: Balance, charged: tuple[int, ...]) -> int:
    """A researcher's part of the spending, read on the budget's odometer, 1e-9, rounded up."""
    return budget_filter.epsilon_spent_nano(balance.terms, charged)


def spent_nano(account: Balance | QuotaBalance, *more: tuple[int, ...]) -> int:
    """The odometer with reservations and `more`, 1e-9, rounded up."""
    spent = account.charged
    for vector in (account.reserved, *more):
        spent = budget_filter.add(spent, vector)
    return budget_filter.epsilon_spent_nano(terms_of(account), spent)


def left_nano(account: Balance | QuotaBalance) -> int:
    """ε minus the odometer with reservations, 1e-9, rounded down, never below 0."""
    return max(0, terms_of(account).epsilon_nano - spent_nano(account))


def terms_of(account: Balance | QuotaBalance) -> Terms:
    """The terms of a budget or of a share that is set."""
    if account.terms is None:
        raise ValueError("a researcher without a quota has no terms")
    return account.terms


def _dataset(session: Session, principal: Principal, dataset_id: str) -> Dataset | None:
    """The row as it is now, or None when it is not the caller's to see."""
    row = session.execute(_DATASET_BY_ID, {"dataset_id": dataset_id})
    facts = row.mappings().one_or_none()
    if facts is None or (principal.role == "owner" and facts["owner_id"] != principal.id):
        return None
    # A value of its own, never attached: a situation outlives its transaction.
    return Dataset(**facts)


def _history(
    session: Session, principal: Principal, balance: Balance, quota: QuotaBalance
) -> History:
    who = {"researcher_id": principal.id, "population_id": balance.population_id}
    jobs, last = session.execute(_JOBS_BY_SUBJECT, who).one()
    return History(
        jobs=jobs,
        charged_nano=charged_nano(balance, budget_filter.add(quota.charged, quota.reserved)),
        last_job_at=None if last is None else from_micros(last),
    )


def _nowhere(dataset_id: str) -> Refused:
    fault = FieldError("dataset", "there is no such dataset, or it is not open to you", dataset_id)
    return Refused("not_found", f"there is no dataset {dataset_id} open to you", errors=[fault])
