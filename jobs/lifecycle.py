"""What people do to a job after its admission: cancel it. (Approvals: `jobs.approvals`.)

A job that waits ends at once; a job that runs is asked to end, and its worker obeys at the next
charge, because the worker alone knows that nothing is open. Cancelling is free to depend on
released models and public facts only, which is all that a researcher or an owner can see.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs import events, settlement, states
from jobs.errors import no_job, wrong_state
from jobs.principal import Principal
from jobs.services import Services
from jobs.tables import FINAL_STATES, Job, JobEvent
from jobs.views import find, job_view
from kit.clock import micros
from privacy_gateway.schemas import JobView

_JOB = Job.__table__  # type: ignore[attr-defined]
_EVENT = JobEvent.__table__  # type: ignore[attr-defined]


def cancel(services: Services, principal: Principal, job_id: str) -> JobView:
    """End a job early; what is not charged yet goes back to the budget.

    Args:
        services: the outside world.
        principal: the job's researcher, its owner, or an admin.
        job_id: the job.

    Raises:
        Refused: `not_found`, also for somebody else's job; `conflict` when it is over.
    """
    now = services.clock()
    with services.database.unit_of_work() as session:
        find(session, principal, job_id)
        job = states.locked(session, job_id)
        if principal.role == "auditor":
            raise no_job(job_id)
        request_stop(session, job, by=principal.role, now=now)
        return job_view(session, job)


def request_stop(session: Session, job: Job, *, by: str, now: datetime) -> None:
    """Cancel a locked job at once, or leave word for its worker.

    Raises:
        Refused: `conflict` when the job is over.
    """
    if job.status in FINAL_STATES:
        raise wrong_state(job.id, job.status, "cancelled")
    if job.status != "running":
        settlement.end(session, job, "cancelled", reason=f"cancelled by {by}", now=now)
    elif job.cancel_requested_at is None:
        job.cancel_requested_at = job.updated_at = micros(now)
        session.flush()
        events.record(session, job.id, "cancel_requested", now=now, body={"by": by})


def waiting_too_long(*, created_before: datetime, now: datetime) -> sa.Select[str]:
    """Ids of jobs that wait for a worker since before `created_before`, or for people too long.

    A job that came back to the queue waits since it last got on, by a charge or a release: its age
    says nothing, and ended at once after a failed attempt it would get a refund that tells of data.
    """
    got_on = sa.exists().where(
        _EVENT.c.job_id == _JOB.c.id,
        _EVENT.c.kind.in_(("charged", "published")),
        _EVENT.c.at >= micros(created_before),
    )
    old = sa.and_(_JOB.c.created_at < micros(created_before), sa.not_(got_on))
    overdue = sa.or_(old, _JOB.c.approve_before < micros(now))
    return (
        sa.select(_JOB.c.id)
        .where(
            sa.or_(
                sa.and_(_JOB.c.status == "awaiting_approval", overdue),
                sa.and_(_JOB.c.status.in_(("reserved", "queued")), old),
            )
        )
        .order_by(_JOB.c.id)
        .limit(100)
    )


def expire(session: Session, job_id: str, *, created_before: datetime, now: datetime) -> bool:
    """End one such job by the rules of every end; False when it moved on meanwhile."""
    job = states.locked(session, job_id)
    late = waiting_too_long(created_before=created_before, now=now).where(_JOB.c.id == job_id)
    if session.execute(late).one_or_none() is None:
        return False
    settlement.end(session, job, "expired", reason="waited too long", now=now)
    return True
