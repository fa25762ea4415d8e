"""Who may see which job, and what is shown of it.

A researcher sees her own jobs, an owner the jobs on her own populations, auditor and admin every
job; for anybody else a job does not exist. A view must never show a number computed on raw data:
no cohort, no timing of a client, no text of a failure.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs import demands, outputs
from jobs.errors import no_job
from jobs.principal import Principal
from jobs.tables import STATES, Job, JobRelease
from kit.clock import from_micros, rfc3339
from privacy_gateway.errors import invalid
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import JobView

_JOB = Job.__table__  # type: ignore[attr-defined]
_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]

PAGE = 100


def job_view(session: Session, job: Job) -> JobView:
    """The job as its researcher sees it, with the metrics of its model once it may be released."""
    request = json.loads(job.request)
    public = request.get("split") == "public_test"
    waiting = demands.waiting_for(session, job) if job.status == "awaiting_approval" else []
    return JobView(
        id=job.id,
        status=job.status,
        dataset=job.dataset_id,
        purpose=job.purpose,
        kind=job.kind,
        rounds=job.rounds,
        rounds_charged=job.rounds_charged,
        rounds_published=job.rounds_published,
        clients_per_round=None if public else job.clients_per_round,
        noise_multiplier=None if public else job.noise_multiplier,
        epsilon=job.epsilon_nano / NANO,
        delta=float(job.delta),
        created_at=rfc3339(from_micros(job.created_at)),
        updated_at=rfc3339(from_micros(job.updated_at)),
        failure=job.failure,
        waiting_for=waiting,
        approve_before=rfc3339(from_micros(job.approve_before))
        if waiting and job.approve_before is not None
        else None,
        decided=demands.decided(session, job),
        request=request,
        metrics=_metrics(session, job.id) if outputs.metrics_shown(session, job) else None,
    )


def find(session: Session, principal: Principal, job_id: str) -> Job:
    """The row of a job the caller may see.

    Raises:
        Refused: `not_found`, the same for a job that is absent and for one of somebody else.
    """
    query = sa.select(Job).where(_JOB.c.id == job_id, visible_to(principal))
    job = session.execute(query).scalar_one_or_none()
    if job is None:
        raise no_job(job_id)
    return job


def get_job(session: Session, principal: Principal, job_id: str) -> JobView:
    """One job.

    Raises:
        Refused: `not_found`.
    """
    return job_view(session, find(session, principal, job_id))


def list_jobs(
    session: Session,
    principal: Principal,
    *,
    status: str | None = None,
    dataset: str | None = None,
    after: str | None = None,
    limit: int = PAGE,
) -> list[JobView]:
    """A page of the jobs the caller may see, newest first.

    Args:
        session: where to read.
        principal: the caller.
        status: only jobs in this state.
        dataset: only jobs on this dataset.
        after: id of the last job of the page before; ids sort by time of making.
        limit: most jobs on the page, at most 1000.

    Raises:
        Refused: `invalid_request` for an unknown state or an impossible limit.
    """
    if status is not None and status not in STATES:
        raise invalid("status", f"is one of {', '.join(STATES)}", value=status)
    if not 1 <= limit <= 1000:
        raise invalid("limit", "is between 1 and 1000", value=limit)
    query = sa.select(Job).where(visible_to(principal))
    if status is not None:
        query = query.where(_JOB.c.status == status)
    if dataset is not None:
        query = query.where(_JOB.c.dataset_id == dataset)
    if after is not None:
        query = query.where(_JOB.c.id < after)
    rows = session.execute(query.order_by(_JOB.c.id.desc()).limit(limit)).scalars()
    return [job_view(session, job) for job in rows]


def visible_to(principal: Principal) -> sa.ColumnElement[bool]:
    """The jobs one role may see, as a condition."""
    if principal.role in ("admin", "auditor"):
        return sa.true()
    if principal.role == "owner":
        return _JOB.c.owner_id == principal.id  # type: ignore[no-any-return]
    return _JOB.c.researcher_id == principal.id  # type: ignore[no-any-return]


def _metrics(session: Session, job_id: str) -> dict[str, float] | None:
    """Metrics on public test data after the newest round that was measured."""
    query = (
        sa.select(_RELEASE.c.metrics)
        .where(_RELEASE.c.job_id == job_id, _RELEASE.c.metrics.is_not(None))
        .order_by(_RELEASE.c.round.desc())
        .limit(1)
    )
    text = session.execute(query).scalar_one_or_none()
    return None if text is None else json.loads(text)
