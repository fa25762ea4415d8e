"""The state diagram of a job, and the only functions that move a job along it.

    submitted → denied
              → awaiting_approval → reserved → queued ⇄ running → completed | failed | cancelled
              → reserved                                        | expired | stopped_by_policy
                                                                | frozen

Each step is one transaction's part and leaves one event. A step outside the diagram is refused;
no other module may write `job.status`. `running → queued` is how a job survives its worker.

Locks are taken in one order everywhere: the job's row, then the population's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs import events
from jobs.errors import no_job, wrong_state
from jobs.tables import FINAL_STATES, Job, JobRelease, Outbox
from kit import prepared
from kit.clock import micros
from policies.verdict import Approval

_JOB = Job.__table__  # type: ignore[attr-defined]
_OUTBOX = Outbox.__table__  # type: ignore[attr-defined]
_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]

# Built once: composing a statement costs more than running it.
_READ = prepared.Prepared(sa.select(_JOB).where(_JOB.c.id == sa.bindparam("job")))
_FORGET = sa.delete(_OUTBOX).where(_OUTBOX.c.job_id == sa.bindparam("job"))
_HINT = sa.insert(_OUTBOX)
_FORGET_MEMORY = (
    sa.update(_RELEASE)
    .where(_RELEASE.c.job_id == sa.bindparam("job"), _RELEASE.c.server_state.is_not(None))
    .values(server_state=None)
)

TRANSITIONS: dict[str, frozenset[str]] = {
    "submitted": frozenset({"denied", "awaiting_approval", "reserved"}),
    "awaiting_approval": frozenset({"reserved", "denied", "cancelled", "expired"}),
    "reserved": frozenset({"queued", "cancelled", "expired"}),
    "queued": frozenset({"running", "cancelled", "expired"}),
    "running": frozenset(
        {"queued", "completed", "failed", "cancelled", "expired", "stopped_by_policy", "frozen"}
    ),
    **{final: frozenset() for final in FINAL_STATES},
}


def is_final(status: str) -> bool:
    """Whether a job in `status` will never move again and holds no reservation."""
    return status in FINAL_STATES


def seen(session: Session, job_id: str) -> Job:
    """The job as it stands, not locked: a row that nobody may change.

    Raises:
        Refused: `not_found`.
    """
    rows = prepared.one(session, _READ, {"job": job_id}).rows
    if not rows:
        raise no_job(job_id)
    return cast("Job", rows[0])


def locked(session: Session, job_id: str) -> Job:
    """The job with its row locked until the transaction ends.

    Raises:
        Refused: `not_found`.
    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise no_job(job_id)
    return job


def started(
    row: dict[str, Any], approvals: Sequence[Approval], *, now: datetime
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Take a new job's row, which must be `submitted`, as far as it goes without a worker.

    To `queued`, or to `awaiting_approval` where the decision demands people; nobody sees the states
    between, because the rows are stored in one transaction.

    Returns:
        Rows of its events and of its outbox.
    """
    if row["status"] != "submitted":
        raise wrong_state(row["id"], row["status"], "submitted")
    steps: list[tuple[str, Mapping[str, Any]]] = [("submitted", {"rounds": row["rounds"]})]
    if approvals:
        demands = [demand.as_dict() for demand in approvals]
        steps.append(("awaiting_approval", {"approvals": demands}))
    else:
        steps += [("reserved", {}), ("queued", {})]
    row["status"] = steps[-1][0]
    made = [
        {"seq": seq, **events.row(row["id"], kind, now=now, body=body)}
        for seq, (kind, body) in enumerate(steps, start=1)
    ]
    hint = {"job_id": row["id"], "created_at": micros(now), "sent_at": None}
    return made, [] if approvals else [hint]


def move(
    session: Session,
    job: Job,
    to: str,
    *,
    now: datetime,
    body: Mapping[str, Any] | None = None,
) -> None:
    """Take one step of the diagram and record it; the caller holds the row's lock.

    Entering `running` is the claim's alone (`jobs.rounds.claim`), because it raises the fence. A
    job that is over needs its released weights alone: what workers kept to go on is forgotten.

    Raises:
        Refused: `conflict` when the diagram has no such step.
    """
    if to == "running" or to not in TRANSITIONS[job.status]:
        raise wrong_state(job.id, job.status, to)
    job.status = to
    job.updated_at = micros(now)
    job.lease_expires_at = None
    if is_final(to):
        job.finished_at = job.updated_at
        session.execute(_FORGET_MEMORY, {"job": job.id})
    session.flush()
    if to != "queued":
        session.execute(_FORGET, {"job": job.id})
    events.record(session, job.id, to, now=now, body=body)


def enqueue(
    session: Session,
    job: Job,
    *,
    now: datetime,
    body: Mapping[str, Any] | None = None,
    later: bool = False,
) -> None:
    """Put the job where workers find it: state `queued` and a hint waiting in the outbox.

    With `later` the hint counts as sent just now, so the relay sends it after its usual patience.
    """
    move(session, job, "queued", now=now, body=body)
    session.execute(_FORGET, {"job": job.id})
    sent_at = micros(now) if later else None
    session.execute(_HINT, {"job_id": job.id, "created_at": micros(now), "sent_at": sent_at})
