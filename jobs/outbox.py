"""From the outbox to the broker, after commit: nothing is published inside a transaction.

A row stands for a job that waits in `queued`; it is removed when a worker claims the job and made
again when the job comes back. Marking rows as sent is one short transaction, talking to the broker
is outside of any, so a black-holed broker delays hints and nothing else. Losing every message of
the broker loses no job: a row sent long ago is sent again.

The relay runs in the gateway and in every worker (`jobs.reaper.Housekeeping`); on PostgreSQL
`SKIP LOCKED` lets them share the rows, on SQLite the write lock does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from jobs.errors import BrokerDown
from jobs.tables import Job, Outbox
from kit import log
from kit.clock import micros
from kit.db import Database

Send = Callable[[str], None]

# Clocks of machines that relay may differ by this much; a mark further ahead is of a clock that
# was set back. Without it two machines would take each other's marks for that, every second.
SKEW_SECONDS = 600.0

_OUTBOX = Outbox.__table__  # type: ignore[attr-defined]
_JOB = Job.__table__  # type: ignore[attr-defined]
_log = log.get("jobs")


def relay(
    database: Database,
    send: Send,
    now: datetime,
    *,
    rehint_seconds: float = 30.0,
    limit: int = 100,
) -> int:
    """Send the hints that are due; stops at the first one the broker does not take.

    Args:
        database: where the outbox lies.
        send: gives one job id to the broker (`jobs.queue.Queue.send`); raises `BrokerDown`.
        now: the time.
        rehint_seconds: a hint that old without a claim is sent again.
        limit: rows per pass.

    Returns:
        The number of hints sent.
    """
    due = _due(now, rehint_seconds)
    with database.read() as session:
        if session.execute(sa.select(_OUTBOX.c.job_id).where(due).limit(1)).first() is None:
            return 0
    marked = _mark(database, due, now, limit)
    for position, job_id in enumerate(marked):
        try:
            send(job_id)
        except BrokerDown as error:
            _unmark(database, marked[position:], now)
            _log.warning("broker_down", reason=str(error), waiting=len(marked) - position)
            return position
    return len(marked)


def waiting(database: Database) -> int:
    """Jobs that wait for a worker; a gauge for people."""
    with database.read() as session:
        return int(session.execute(sa.select(sa.func.count()).select_from(_OUTBOX)).scalar_one())


def _due(now: datetime, rehint_seconds: float) -> sa.ColumnElement[bool]:
    """Never sent, sent too long ago, or sent far in what is now the future."""
    patience = timedelta(seconds=rehint_seconds)
    ahead = timedelta(seconds=max(rehint_seconds, SKEW_SECONDS))
    return sa.or_(
        _OUTBOX.c.sent_at.is_(None),
        _OUTBOX.c.sent_at <= micros(now - patience),
        _OUTBOX.c.sent_at > micros(now + ahead),
    )


def _mark(
    database: Database, due: sa.ColumnElement[bool], now: datetime, limit: int
) -> Sequence[str]:
    """Take due rows for this pass, oldest first."""
    taken = (
        sa.select(_OUTBOX.c.job_id)
        .join(_JOB, _JOB.c.id == _OUTBOX.c.job_id)
        .where(due, _JOB.c.status == "queued")
        .order_by(_OUTBOX.c.created_at, _OUTBOX.c.job_id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=_OUTBOX)
    )
    with database.unit_of_work() as session:
        job_ids = list(session.execute(taken).scalars())
        session.execute(
            _OUTBOX.update().where(_OUTBOX.c.job_id.in_(job_ids)).values(sent_at=micros(now))
        )
    return job_ids


def _unmark(database: Database, job_ids: Sequence[str], now: datetime) -> None:
    """The broker did not take these: due again, unless somebody else sent them meanwhile."""
    with database.unit_of_work() as session:
        session.execute(
            _OUTBOX.update()
            .where(_OUTBOX.c.job_id.in_(job_ids), _OUTBOX.c.sent_at == micros(now))
            .values(sent_at=None)
        )
