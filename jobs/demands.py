"""What the owner's policy demands of people before a job runs, and what of it is still missing.

Read by whoever shows a job and by the approvals that meet the demands; nothing here writes.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs.tables import Job, JobApproval

_APPROVAL = JobApproval.__table__  # type: ignore[attr-defined]


def waiting_for(session: Session, job: Job) -> list[dict[str, Any]]:
    """The demands of the decision that are not met yet, with how many people are missing."""
    have = _approved_by_role(session, job.id)
    return [
        {**demand, "missing": demand["count"] - have[demand["role"]]}
        for demand in json.loads(job.approvals)
        if have[demand["role"]] < demand["count"]
    ]


def decided(session: Session, job: Job) -> list[dict[str, Any]]:
    """What people said, the first one first; nothing of who they are but their role."""
    if not json.loads(job.approvals):
        return []
    query = (
        sa.select(_APPROVAL.c.approver_role.label("role"), _APPROVAL.c.decision, _APPROVAL.c.note)
        .where(_APPROVAL.c.job_id == job.id)
        .order_by(_APPROVAL.c.at, _APPROVAL.c.approver_id)
    )
    return [dict(row) for row in session.execute(query).mappings()]


def _approved_by_role(session: Session, job_id: str) -> Counter[str]:
    """How many people of each role agreed."""
    query = (
        sa.select(_APPROVAL.c.approver_role, sa.func.count().label("people"))
        .where(_APPROVAL.c.job_id == job_id, _APPROVAL.c.decision == "approve")
        .group_by(_APPROVAL.c.approver_role)
    )
    return Counter({row.approver_role: row.people for row in session.execute(query)})
