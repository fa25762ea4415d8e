"""Brings lost jobs back, ends those that waited too long, and keeps the outbox moving.

A lease that ended belongs to nobody: the job goes back to the queue, or fails for good when too
many workers in a row were lost without publishing a round. `Housekeeping` does this and the outbox
relay once a second in the gateway and in every worker: whichever of them lives is enough, and any
number of them may run, because each step is decided again under the job's row lock. Nothing here
may talk to the broker inside a transaction, or trust a clock other than the database's for leases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import exc as database_errors

from jobs import lifecycle, outbox, settlement, states
from jobs.outbox import Send
from jobs.services import Services
from jobs.tables import Job
from kit import log
from kit.clock import from_micros, micros
from kit.database_time import database_micros

_JOB = Job.__table__  # type: ignore[attr-defined]
_log = log.get("jobs")

DATABASE_DOWN = (
    database_errors.OperationalError,
    database_errors.InterfaceError,
    database_errors.TimeoutError,
)

# A lease that ends further away than this was written by a clock that has since been set back.
IMPOSSIBLE_LEASE_SECONDS = 86_400.0


def reap(services: Services, *, limit: int = 100) -> list[str]:
    """Take back jobs whose lease ended; returns their ids."""
    with services.database.read() as session:
        lost = session.execute(sa.select(_JOB.c.id).where(_lease_ended()).limit(limit))
        job_ids = list(lost.scalars())
    return [job_id for job_id in job_ids if _alone(_take_back, services, job_id)]


def expire(services: Services) -> list[str]:
    """End jobs that waited too long for a person or a worker; returns their ids."""
    with services.database.read() as session:
        # One machine whose clock runs ahead must not end what everybody else waits for.
        there = from_micros(session.execute(sa.select(database_micros())).scalar_one())
        now = min(services.clock(), there)
        before = now - timedelta(seconds=services.settings.reservation_seconds)
        waiting = lifecycle.waiting_too_long(created_before=before, now=now)
        job_ids = list(session.execute(waiting).scalars())

    def end(services: Services, job_id: str) -> bool:
        with services.database.unit_of_work() as session:
            return lifecycle.expire(session, job_id, created_before=before, now=now)

    return [job_id for job_id in job_ids if _alone(end, services, job_id)]


class Housekeeping:
    """The thread that does it all, once a second; a failure is logged and tried again.

    Args:
        services: the outside world.
        send: gives one job id to the broker; None where this process relays nothing.
        interval_seconds: pause between passes.
        also: something more to do on each pass.
    """

    def __init__(
        self,
        services: Services,
        send: Send | None,
        *,
        interval_seconds: float = 1.0,
        also: Callable[[], None] | None = None,
    ) -> None:
        self._services = services
        self._send = send
        self._interval = interval_seconds
        self._also = also
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def nudge(self) -> None:
        """Make the next pass now: something was just committed to the outbox."""
        self._wake.set()

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """End after the pass that is under way."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def step(self) -> None:
        """One pass: leases, waiting jobs, outbox."""
        if self._also is not None:
            self._also()
        reap(self._services)
        expire(self._services)
        if self._send is not None:
            outbox.relay(
                self._services.database,
                self._send,
                self._services.clock(),
                rehint_seconds=self._services.settings.rehint_seconds,
            )

    def _loop(self) -> None:
        while not self._stopped:
            try:
                self.step()
            except Exception as error:
                # The next pass may find the database again.
                _log.warning("housekeeping_failed", reason=type(error).__name__)
            self._wake.wait(self._interval)
            self._wake.clear()


def _alone(act: Callable[[Services, str], bool], services: Services, job_id: str) -> bool:
    """Do something to one job; where it cannot be done, the other jobs and hints must not wait."""
    try:
        return act(services, job_id)
    except DATABASE_DOWN:
        raise
    except Exception as error:
        _log.error("job_not_ended", job=job_id, reason=type(error).__name__)
        return False


def _lease_ended() -> sa.ColumnElement[bool]:
    impossible = round(IMPOSSIBLE_LEASE_SECONDS * 1_000_000)
    return sa.and_(
        _JOB.c.status == "running",
        sa.or_(
            _JOB.c.lease_expires_at <= database_micros(),
            _JOB.c.lease_expires_at > database_micros() + impossible,
        ),
    )


def _take_back(services: Services, job_id: str) -> bool:
    """Decide again under the lock; False when the worker was alive after all."""
    now = services.clock()
    with services.database.unit_of_work() as session:
        job = states.locked(session, job_id)
        ended = sa.select(_JOB.c.id).where(_JOB.c.id == job_id, _lease_ended())
        if session.execute(ended).one_or_none() is None:
            return False
        _log.warning("lease_ended", job=job_id, worker=job.worker, attempt=job.attempt)
        if job.cancel_requested_at is not None:
            settlement.end(session, job, "cancelled", reason="cancelled", now=now)
        elif job.attempt >= services.settings.maximum_attempts:
            settlement.end(
                session,
                job,
                "failed",
                reason="too many workers were lost in a row",
                failure="worker_lost",
                detail=f"lease of worker {job.worker} ended at {job.lease_expires_at}",
                now=now,
            )
        else:
            states.enqueue(session, job, now=now, body={"reason": "worker_lost"})
        job.updated_at = micros(now)
    return True
