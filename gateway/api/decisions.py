"""The log of policy decisions: every question as it was asked, and what was answered."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from gateway import scope
from gateway.deps import Outside, OwnerOrAuditor, PageAsked
from gateway.paging import cut
from jobs.principal import Principal
from jobs.tables_datasets import Dataset
from kit.clock import rfc3339
from policies import revisions
from privacy_gateway.errors import Refused
from privacy_gateway.views import DecisionView, Page

router = APIRouter(prefix="/v1/decisions", tags=["decisions"])

_DATASET = Dataset.__table__  # type: ignore[attr-defined]


@router.get("")
def list_decisions(
    services: Outside,
    caller: OwnerOrAuditor,
    asked: PageAsked,
    job: Annotated[str | None, Query(max_length=100)] = None,
) -> Page[DecisionView]:
    """Decisions on one's data sets (all, for an auditor), oldest first."""
    with services.database.read() as session:
        found = revisions.decisions(
            session,
            dataset_ids=_dataset_ids(session, caller),
            job_id=job,
            after=asked.after,
            limit=asked.limit + 1,
        )
    return cut(found, asked, lambda row: str(row["id"]), _view)


@router.get("/{decision_id}")
def show(services: Outside, caller: OwnerOrAuditor, decision_id: str) -> DecisionView:
    """One decision."""
    with services.database.read() as session:
        found = revisions.decision(session, decision_id)
        mine = _dataset_ids(session, caller)
    if mine is not None and found["dataset_id"] not in mine:
        raise Refused("not_found", f"there is no decision {decision_id}")
    return _view(found)


def _dataset_ids(session: Session, caller: Principal) -> list[str] | None:
    """The owner's data sets; None for who reads all."""
    if caller.role != "owner":
        return None
    query = scope.datasets(caller).with_only_columns(_DATASET.c.id)
    return list(session.scalars(query))


def _view(row: dict[str, Any]) -> DecisionView:
    return DecisionView(
        **{name: row[name] for name in _SAME},
        dataset=row["dataset_id"],
        job=row["job_id"],
        subject=row["subject_id"],
        revision=row["revision_number"],
        created_at=rfc3339(row["created_at"]),
    )


_SAME = (
    "id", "outcome", "code", "fault", "detail", "verdict", "input", "input_digest", "digest",
    "revision_digest", "library_digest", "engine", "engine_version", "latency_us",
)  # fmt: skip
