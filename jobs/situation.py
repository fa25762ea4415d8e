"""The facts a request is judged against, read at one moment: data set, budget, rules, history.

A situation is read twice: without a lock for quotes and for asking the policy, and again under
the budget's lock at admission. `versions` says whether anything that was decided on has moved in
between. It must never hold anything computed on clients' data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from accounting import blocks, quotas
from accounting import filter as budget_filter
from accounting.budget import Terms
from accounting.ledger import Balance, QuotaBalance
from accounting.posting import balance_of
from accounting.quotas import balance_of as quota_of
from accounting.quotas import nothing as no_quota
from jobs import projects
from jobs.principal import Principal
from jobs.tables import Job
from jobs.tables_datasets import Dataset
from kit import prepared
from kit.clock import from_micros
from kit.prepared import Asked, Each, Prepared
from policies import revisions
from policies.engine import Revision
from policies.tables import IS_ACTIVE
from privacy_gateway.errors import FieldError, Refused

_JOB = Job.__table__  # type: ignore[attr-defined]
_DATASET = Dataset.__table__  # type: ignore[attr-defined]

_POPULATION = SQLModel.metadata.tables["population"]
_QUOTA = SQLModel.metadata.tables["quota"]
_REVISION = SQLModel.metadata.tables["policy_revision"]
_REVISION_COLUMNS = tuple(column.name for column in _REVISION.columns)


def _prefixed(table: sa.Table, prefix: str) -> list[sa.ColumnElement[Any]]:
    return [column.label(f"{prefix}{column.name}") for column in table.columns]


# Built once: composing a statement costs more than running it, and these run on every quote.
_ACTIVE = sa.and_(_REVISION.c.dataset_id == _DATASET.c.id, IS_ACTIVE)
_STANDING = Prepared(
    sa.select(_DATASET.c.id, _DATASET.c.frozen, _REVISION.c.id.label("revision_id"))
    .select_from(_DATASET.outerjoin(_REVISION, _ACTIVE))
    .where(_DATASET.c.id == sa.bindparam("dataset_id"))
)


def _of_last_job(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A column of the researcher's last job, whose ordinal counts them all.

    The order names the one index that has it, so that a plan made while the table was empty reads
    one row too, however long the history has become.
    """
    return (
        sa.select(column)
        .where(
            _JOB.c.researcher_id == _QUOTA.c.researcher_id,
            _JOB.c.population_id == _QUOTA.c.population_id,
        )
        .order_by(_JOB.c.ordinal.desc())
        .limit(sa.literal_column("1"))
        .correlate(_QUOTA)
        .scalar_subquery()
    )


_PERSON = sa.select(
    _QUOTA,
    _of_last_job(_JOB.c.ordinal).label("ordinal"),
    _of_last_job(_JOB.c.created_at).label("created_at"),
)
_HERE = Prepared(
    sa.select(
        _DATASET,
        *_prefixed(_POPULATION, "p_"),
        *_prefixed(_REVISION, "r_"),
        *_prefixed(_QUOTA, "q_"),
        _of_last_job(_JOB.c.ordinal).label("q_ordinal"),
        _of_last_job(_JOB.c.created_at).label("q_created_at"),
    )
    .select_from(
        _DATASET.join(_POPULATION, _POPULATION.c.id == _DATASET.c.population_id)
        .outerjoin(_REVISION, _ACTIVE)
        .outerjoin(
            _QUOTA,
            sa.and_(
                _QUOTA.c.population_id == _DATASET.c.population_id,
                _QUOTA.c.researcher_id == sa.bindparam("researcher_id"),
            ),
        )
    )
    .where(_DATASET.c.id == sa.bindparam("dataset_id"))
)
_PEOPLE = Each(
    lambda population, researcher: _PERSON.where(
        _QUOTA.c.population_id == population, _QUOTA.c.researcher_id == researcher
    ),
    [_QUOTA.c.population_id, _QUOTA.c.researcher_id],
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
        balance: its people's budget; `clients` is their public number. Where the population has
            blocks, as the most burdened of the people the job is about has spent it.
        share: the researcher's own part of it, None without a quota.
        project: the share of the project that the job is charged to, None without a quota.
        revision: the owner's active policy.
        history: what this researcher did before.
    """

    dataset: Dataset
    balance: Balance
    share: QuotaBalance | None
    revision: Revision
    history: History
    project: QuotaBalance | None = None

    @property
    def shares(self) -> tuple[QuotaBalance, ...]:
        """The quotas that are set."""
        return tuple(share for share in (self.share, self.project) if share is not None)

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
        """Whether every quota that is set has room."""
        return all(share.admits(cost) for share in self.shares)


@dataclass(frozen=True, slots=True)
class Past:
    """One researcher's spending on one population, and her last job there (0 and None: none)."""

    share: QuotaBalance
    ordinal: int
    last_job_at: int | None


def read(
    session: Session,
    principal: Principal,
    dataset_id: str,
    *,
    project: str | None = None,
    revision: Revision | None = None,
) -> Situation:
    """The situation of one caller and one data set, as this transaction sees it.

    `revision` stands in for the active policy in a dry run.

    Raises:
        Refused: `not_found` for a data set that is absent, has no active policy, or belongs to
            another owner, which look alike; for a project that the caller is no member of.
    """
    (row,) = prepared.ask(session, reading(principal, dataset_id))
    return of_row(session, principal, dataset_id, row, project=project, revision=revision)


def reading(principal: Principal, dataset_id: str) -> Asked[Any]:
    """The row that `of_row` makes a situation of, None where there is none."""
    wanted = {"dataset_id": dataset_id, "researcher_id": principal.id}
    return Asked([(_HERE, wanted)], lambda answers: next(iter(answers[0].rows), None))


def of_row(
    session: Session,
    principal: Principal,
    dataset_id: str,
    row: Any,
    *,
    project: str | None = None,
    revision: Revision | None = None,
) -> Situation:
    """The situation that a row of `reading` tells of; see `read`.

    Raises:
        Refused: `not_found`.
    """
    if row is None or (principal.role == "owner" and row.owner_id != principal.id):
        raise _nowhere(dataset_id)
    revision = revision or _revision(row)
    if revision is None:
        raise _nowhere(dataset_id)
    balance = balance_of(_Part(row, "p_"))
    past = _nothing(balance, principal.id)
    if row.q_researcher_id is not None:
        past = _past(_Part(row, "q_"), balance.terms.delta)
    target = blocks.target(session, balance, block_of(cast("Dataset", row)))
    theirs = project_share(session, principal, balance, project)
    # The row is read-only and holds nothing of the session: a situation outlives its transaction.
    return situation_of(cast("Dataset", row), revision, target.seen(balance), past, theirs)


def block_of(dataset: Dataset) -> str | None:
    """Whom jobs on a data set count for: one block's people, or everybody (None)."""
    name: str | None = dataset.manifest.get("block")
    return name


def project_share(
    session: Session, principal: Principal, balance: Balance, project: str | None
) -> QuotaBalance | None:
    """The spending of the project a job is charged to.

    Raises:
        Refused: `not_found` for a project that the caller is no member of.
    """
    if project is None:
        return None
    projects.require_member(session, principal, project)
    delta = balance.terms.delta
    return quotas.quota(session, balance.population_id, project, kind="project", delta=delta)


def situation_of(
    dataset: Dataset,
    revision: Revision,
    balance: Balance,
    past: Past,
    project: QuotaBalance | None = None,
) -> Situation:
    """The facts put together."""
    spent = budget_filter.add(past.share.charged, past.share.reserved)
    return Situation(
        dataset=dataset,
        balance=balance,
        share=None if past.share.terms is None else past.share,
        project=None if project is None or project.terms is None else project,
        revision=revision,
        history=History(
            jobs=past.ordinal,
            charged_nano=charged_nano(balance, spent),
            last_job_at=None if past.last_job_at is None else from_micros(past.last_job_at),
        ),
    )


def standing(dataset_ids: Iterable[str]) -> Asked[dict[str, tuple[bool, str | None]]]:
    """Of each data set whether it is withdrawn, and the id of its active policy."""
    wanted = sorted(set(dataset_ids))
    return Asked(
        [(_STANDING, {"dataset_id": each}) for each in wanted],
        lambda answers: {
            row.id: (row.frozen, row.revision_id) for answer in answers for row in answer.rows
        },
    )


def asking_pasts(session: Session, people: Iterable[tuple[str, str]]) -> Asked[list[Any]]:
    """The rows that `pasts` is made of, as a part of a batch."""
    wanted = [
        {"population_id": population, "researcher_id": who} for population, who in sorted(people)
    ]
    return Asked(
        _PEOPLE.calls(session, wanted),
        lambda answers: [row for answer in answers for row in answer.rows],
    )


def pasts(
    balances: Mapping[str, Balance], people: Iterable[tuple[str, str]], rows: Iterable[Any]
) -> dict[tuple[str, str], Past]:
    """The past of several researchers by (population, researcher)."""
    found = {key: _nothing(balances[key[0]], key[1]) for key in people}
    for row in rows:
        key = (row.population_id, row.researcher_id)
        found[key] = _past(row, balances[key[0]].terms.delta)
    return found


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


class _Part:
    """The columns of one table in a row of several, by their own names."""

    __slots__ = ("_prefix", "_row")

    def __init__(self, row: Any, prefix: str) -> None:
        self._row, self._prefix = row, prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, self._prefix + name)


def _revision(row: Any) -> Revision | None:
    """The active policy in a row of `_HERE`."""
    if row.r_id is None:
        return None
    return revisions.revision_of({name: getattr(row, f"r_{name}") for name in _REVISION_COLUMNS})


def _past(row: Any, delta: str) -> Past:
    return Past(quota_of(row, delta, "researcher"), row.ordinal or 0, row.created_at)


def _nothing(balance: Balance, researcher_id: str) -> Past:
    return Past(no_quota(balance.population_id, researcher_id, "researcher"), 0, None)


def _nowhere(dataset_id: str) -> Refused:
    fault = FieldError("dataset", "there is no such dataset, or it is not open to you", dataset_id)
    return Refused("not_found", f"there is no dataset {dataset_id} open to you", errors=[fault])
