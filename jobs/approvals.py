"""People who must agree before a job runs, when the owner's policy says so.

A job that awaits approval holds its reservation, so nobody can spend the budget meanwhile, and
starts only when every demand of the decision is met in time. Nobody may approve a job of their
own, and one person counts once. This module must never ask the policy again: the worker does,
before every block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs import demands, settlement, states
from jobs.errors import no_job
from jobs.principal import Principal
from jobs.services import Services
from jobs.tables import Job, JobApproval
from jobs.views import job_view
from kit.clock import from_micros, micros
from policies.verdict import Approval
from privacy_gateway import canonical
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobView
from privacy_gateway.views import Approval as ApprovalRequest

_APPROVAL = JobApproval.__table__  # type: ignore[attr-defined]


def demands_text(approvals: Sequence[Approval]) -> str:
    """What a decision demands, as the job row keeps it."""
    return canonical.dumps([approval.as_dict() for approval in approvals]).decode()


def approve_before(approvals: Sequence[Approval], now: datetime) -> datetime | None:
    """The moment after which the first demand can no longer be met; None without demands."""
    if not approvals:
        return None
    return now + timedelta(hours=min(approval.within_hours for approval in approvals))


def decide(
    services: Services, principal: Principal, job_id: str, request: ApprovalRequest
) -> JobView:
    """Record what one person decided; the last approval queues the job, a rejection denies it.

    Args:
        services: the outside world.
        principal: who decides; must have a role that the decision demands.
        job_id: the job that waits.
        request: `approve` or `reject`, with a note for the record.

    Raises:
        Refused: `not_found`, `forbidden` (not asked for, or their own job), `conflict` (not
            waiting, too late, or decided before).
    """
    now = services.clock()
    with services.database.unit_of_work() as session:
        job = _locked_for(session, principal, job_id)
        _refuse_untimely(job, now)
        _record(session, principal, job, request, now)
        body = {"role": principal.role, "decision": request.decision}
        if request.decision == "reject":
            settlement.end(session, job, "denied", reason="approval rejected", now=now)
        elif _satisfied(session, job):
            states.move(session, job, "reserved", now=now, body=body)
            states.enqueue(session, job, now=now)
        return job_view(session, job)


def _locked_for(session: Session, principal: Principal, job_id: str) -> Job:
    """The job, locked, if the caller may decide about it."""
    job = states.locked(session, job_id)
    roles = {demand["role"] for demand in json.loads(job.approvals)}
    if principal.role not in roles | {"owner"} or (
        principal.role == "owner" and job.owner_id != principal.id
    ):
        raise no_job(job_id)
    if principal.role not in roles:
        raise Refused("forbidden", "the policy does not ask for the approval of your role")
    if job.researcher_id == principal.id:
        raise Refused("forbidden", "nobody approves a job of their own")
    return job


def _refuse_untimely(job: Job, now: datetime) -> None:
    if job.status != "awaiting_approval":
        raise Refused("conflict", f"{job.id} is {job.status} and awaits no approval")
    if job.approve_before is not None and micros(now) > job.approve_before:
        raise Refused("conflict", f"approvals ended at {from_micros(job.approve_before)}")


def _record(
    session: Session, principal: Principal, job: Job, request: ApprovalRequest, now: datetime
) -> None:
    """One row per person; a second decision of the same person is a conflict."""
    mine = sa.select(_APPROVAL.c.decision).where(
        _APPROVAL.c.job_id == job.id, _APPROVAL.c.approver_id == principal.id
    )
    if session.execute(mine).scalar_one_or_none() is not None:
        raise Refused("conflict", "you have decided about this job before")
    session.execute(
        _APPROVAL.insert().values(
            job_id=job.id,
            approver_id=principal.id,
            approver_role=principal.role,
            decision=request.decision,
            note=request.note,
            at=micros(now),
        )
    )


def _satisfied(session: Session, job: Job) -> bool:
    return not demands.waiting_for(session, job)
