"""Jobs after a restore that lost entries: all that were under way end, and say why.

Their reservations are charged before (`accounting.recovery`), so nothing is given back here. A
worker that still runs one of them has lost its claim. This module must never let a job go on whose
rounds may have been opened and released in the time that was lost.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import ledger
from jobs import settlement, states
from jobs.tables import FINAL_STATES, Job

REASON: Final = "the gateway was restored from a backup; submit the job again"
_JOB = Job.__table__  # type: ignore[attr-defined]


def end_all(session: Session, *, now: datetime) -> list[str]:
    """End every job that is not over; answers their ids."""
    query = sa.select(_JOB.c.id).where(_JOB.c.status.not_in(sorted(FINAL_STATES)))
    job_ids = list(session.execute(query.order_by(_JOB.c.id)).scalars())
    for job_id in job_ids:
        job = states.locked(session, job_id)
        present = ledger.held(session, job_id)
        if present is not None and not present.whole:
            job.rounds_charged = max(job.rounds_charged, present.rounds_charged)
        job.fence += 1
        settlement.end(session, job, "cancelled", reason=REASON, now=now)
    return job_ids
