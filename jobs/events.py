"""What happened to a job, in order: the source of the live page and of SSE.

An event's body is read by the researcher, so it holds only public or released facts; no cohort
size, no timing of a client, no text of an exception. Events are appended inside the transaction
of the change they tell about and are never changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs.tables import JobEvent
from kit import prepared
from kit.clock import from_micros, micros, rfc3339
from privacy_gateway import canonical

_EVENT = JobEvent.__table__  # type: ignore[attr-defined]

_NEXT = (
    sa.select(sa.func.coalesce(sa.func.max(_EVENT.c.seq), 0) + 1)
    .where(_EVENT.c.job_id == sa.bindparam("job_id"))
    .scalar_subquery()
)
_GIVEN = ("job_id", "kind", "at", "body")
_APPEND = prepared.Prepared(
    sa.insert(_EVENT).from_select(
        ["seq", *_GIVEN],
        sa.select(_NEXT, *(sa.bindparam(name, type_=_EVENT.c[name].type) for name in _GIVEN)),
        include_defaults=False,
    )
)

# The reason of a return to the queue that is no public fact: people's data may have been the cause.
# The loss of a worker is public: the process that held the claim never computes on a record.
FAILED = "attempt_failed"


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a job; `seq` counts from 1 without gaps and is the SSE id."""

    job_id: str
    seq: int
    kind: str
    at: datetime
    body: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping for JSON."""
        return {"seq": self.seq, "kind": self.kind, "at": rfc3339(self.at), **self.body}


def record(
    session: Session,
    job_id: str,
    kind: str,
    *,
    now: datetime,
    body: Mapping[str, Any] | None = None,
) -> None:
    """Append an event; the caller holds the job's row lock, which keeps `seq` free of gaps."""
    prepared.ask(session, recording(job_id, kind, now=now, body=body))


def recording(
    job_id: str, kind: str, *, now: datetime, body: Mapping[str, Any] | None = None
) -> prepared.Asked[None]:
    """`record` as a part of a batch."""
    return prepared.nothing([(_APPEND, row(job_id, kind, now=now, body=body))])


def row(
    job_id: str, kind: str, *, now: datetime, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The columns of an event, but for its `seq`."""
    text = canonical.dumps(dict(body), floats=True).decode() if body else "{}"
    return {"job_id": job_id, "kind": kind, "at": micros(now), "body": text}


def attempt_failed(session: Session, job_id: str) -> bool:
    """Whether an attempt that had been paid for failed, which people's data may cause."""
    first = sa.select(sa.func.min(_EVENT.c.seq)).where(
        _EVENT.c.job_id == job_id, _EVENT.c.kind == "charged"
    )
    returns = sa.select(_EVENT.c.body).where(
        _EVENT.c.job_id == job_id,
        _EVENT.c.kind == "queued",
        _EVENT.c.seq > first.scalar_subquery(),
    )
    bodies = session.execute(returns).scalars()
    return any(json.loads(body).get("reason") == FAILED for body in bodies)


def since(session: Session, job_id: str, *, after: int = 0, limit: int = 200) -> list[Event]:
    """Events with `seq` above `after`, oldest first."""
    rows = session.execute(
        sa.select(_EVENT)
        .where(_EVENT.c.job_id == job_id, _EVENT.c.seq > after)
        .order_by(_EVENT.c.seq)
        .limit(limit)
    )
    return [
        Event(each.job_id, each.seq, each.kind, from_micros(each.at), json.loads(each.body))
        for each in rows
    ]
