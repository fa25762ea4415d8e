"""One job in the hands of one worker: claim, lease, charge; what it publishes is `jobs.releases`.

The claim raises the job's fence; everything a worker writes afterwards is checked against that
fence and the lease under the row's lock, so a worker that was stopped, partitioned or believed
dead can neither charge nor publish. Leases are measured with the database's clock, because
workers' clocks differ. A charge must be committed before the data of its rounds is opened; that
order is the coordinator's to keep, which is why nothing here commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import ledger
from accounting.ledger import Charge
from jobs import events, states
from jobs.errors import FencedOut
from jobs.tables import Job, Outbox
from kit import prepared
from kit.clock import micros
from kit.database_time import database_micros
from kit.prepared import Asked, Prepared

_JOB = Job.__table__  # type: ignore[attr-defined]
_OUTBOX = Outbox.__table__  # type: ignore[attr-defined]


# These run for every block and publication. A lease that ended is over even before the reaper has
# seen it.
_RENEW = Prepared(
    sa.update(_JOB)
    .where(
        _JOB.c.id == sa.bindparam("held_job"),
        _JOB.c.fence == sa.bindparam("held_fence"),
        _JOB.c.status == "running",
        _JOB.c.lease_expires_at > database_micros(),
    )
    .values(lease_expires_at=database_micros() + sa.bindparam("lease", type_=sa.BigInteger()))
    .returning(_JOB.c.rounds, _JOB.c.rounds_charged, _JOB.c.rounds_published)
)
_CHARGED = Prepared(
    sa.update(_JOB)
    .where(_JOB.c.id == sa.bindparam("held_job"))
    .values(rounds_charged=sa.bindparam("charged"), updated_at=sa.bindparam("now"))
)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of one worker to one job, until the lease ends or the fence rises.

    Attributes:
        job_id: the job.
        fence: number of this claim; every charge and release carries it.
        attempt: claims since the last published round, this one included.
        worker: name of the holder.
        lease_seconds: length of the lease at each renewal.
    """

    job_id: str
    fence: int
    attempt: int
    worker: str
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Block:
    """Rounds that are paid for: `first` … `first + rounds - 1`; none when `rounds` is 0.

    `isolation` is what the decision that paid for them demands of their sandboxes, None: nothing.
    """

    first: int
    rounds: int
    isolation: str | None = None

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.rounds))


def claim(
    session: Session, job_id: str, *, worker: str, lease_seconds: float, now: datetime
) -> Claim | None:
    """Take a queued job: one UPDATE that raises the fence and starts the lease.

    Returns:
        The claim, or None when the job is not there to be taken (unknown, taken, over, or one
        too many on its data set): the message was a hint and proves nothing.
    """
    if _one_too_many(session, job_id):
        return None
    taken = session.execute(
        _JOB.update()
        .where(_JOB.c.id == job_id, _JOB.c.status == "queued")
        .values(
            status="running",
            fence=_JOB.c.fence + 1,
            attempt=_JOB.c.attempt + 1,
            worker=worker,
            lease_expires_at=_lease_end(lease_seconds),
            updated_at=micros(now),
        )
        .returning(_JOB.c.fence, _JOB.c.attempt)
    ).one_or_none()
    if taken is None:
        return None
    session.execute(_OUTBOX.delete().where(_OUTBOX.c.job_id == job_id))
    events.record(session, job_id, "running", now=now, body={"attempt": taken.attempt})
    return Claim(job_id, taken.fence, taken.attempt, worker, lease_seconds)


def renew(session: Session, held: Claim) -> None:
    """Heartbeat: the lease starts anew, unless it has ended.

    Raises:
        FencedOut: the claim is no longer in force.
    """
    progress(session, held)


def progress(session: Session, held: Claim) -> Any:
    """Renew, and tell how far the job is; its row is locked until the transaction ends.

    Returns:
        A row of `rounds`, `rounds_charged` and `rounds_published`.

    Raises:
        FencedOut: the claim is no longer in force.
    """
    asked = {
        "held_job": held.job_id,
        "held_fence": held.fence,
        "lease": _lease_micros(held.lease_seconds),
    }
    rows = prepared.one(session, _RENEW, asked).rows
    if not rows:
        raise FencedOut(held.job_id, held.fence)
    return rows[0]


def guard(session: Session, held: Claim) -> Job:
    """The job, its row locked and its lease renewed, if the claim is still in force.

    Raises:
        FencedOut: it is not; nothing may be written.
    """
    renew(session, held)
    return states.locked(session, held.job_id)


def standing(session: Session, held: Claim) -> Job:
    """What `guard` gives, as a row that nobody may change: all that going on needs.

    Raises:
        FencedOut: the claim is no longer in force; nothing may be written.
    """
    renew(session, held)
    return states.seen(session, held.job_id)


def charge(
    session: Session, held: Claim, job: Job, *, rounds: int, facts: Mapping[str, Any], now: datetime
) -> Block:
    """Charge the next rounds after the last published one, as one ledger entry of this attempt.

    A round that an earlier attempt charged and did not publish is charged again: its data was
    opened. Where the reservation has no room for all `rounds`, fewer are charged, at last none.
    A mechanism that is charged whole is paid for by the first call; later ones charge nothing and
    give the next rounds, which another attempt computes to the same bits.

    Args:
        session: the transaction that `standing` began; the caller commits before opening data.
        held: the claim.
        job: what `standing` gave; it is not changed, so read it again for what follows.
        rounds: rounds wanted, ≥ 1.
        facts: policy decision, dataset and versions for the ledger entry.
        now: the time.

    Raises:
        Refused: `frozen`; nothing was charged.
        ValueError: `job` is none that exists.
    """
    first = job.rounds_published + 1
    charged = ledger.charge(
        session,
        job_id=job.id,
        round_first=first,
        rounds=min(rounds, job.rounds - job.rounds_published),
        attempt=held.fence,
        fence=held.fence,
        facts=facts,
        now=now,
    )
    if charged.rounds_charged:
        paid = rounds_paid(job, charged)
        total = job.rounds_charged + paid
        moved = {"held_job": job.id, "charged": total, "now": micros(now)}
        body = {"first_round": first, "rounds": paid, "rounds_charged": total}
        (written, _) = prepared.ask(
            session,
            Asked([(_CHARGED, moved)], lambda answers: answers[0].matched),
            events.recording(job.id, "charged", now=now, body=body),
        )
        if written != 1:
            raise ValueError(f"job {job.id} was charged and is not there")
        return Block(first, min(rounds, paid))
    left = job.rounds_charged - job.rounds_published if charged.whole else 0
    return Block(first, min(rounds, left))


def rounds_paid(job: Job, charged: Charge) -> int:
    """Rounds that a charge pays for: all of them where the mechanism is charged whole."""
    return job.rounds - job.rounds_charged if charged.whole else charged.rounds_charged


def release(
    session: Session,
    held: Claim,
    *,
    reason: str,
    now: datetime,
    blameless: bool = False,
    later: bool = False,
) -> None:
    """Give the job back to the queue, for a clean shutdown or another attempt.

    Args:
        session: the transaction.
        held: the claim, spent afterwards.
        reason: a word for the event.
        now: the time.
        blameless: do not count this attempt (the worker was told to stop).
        later: leave the hint to the relay's second round instead of sending it at once.

    Raises:
        FencedOut: somebody else has it already.
    """
    job = guard(session, held)
    if blameless:
        job.attempt = max(job.attempt - 1, 0)
    states.enqueue(session, job, now=now, body={"reason": reason}, later=later)


def _lease_end(lease_seconds: float) -> sa.ColumnElement[int]:
    return database_micros() + _lease_micros(lease_seconds)


def _lease_micros(lease_seconds: float) -> int:
    return round(lease_seconds * 1_000_000)


def _one_too_many(session: Session, job_id: str) -> bool:
    """Whether the owner's `max_parallel_jobs` says to wait; locks only where it is demanded.

    It counts the jobs that run on the data set. The job waits in the queue, and the relay
    announces it again.
    """
    mine = sa.select(_JOB.c.obligations).where(_JOB.c.id == job_id)
    obligations = session.execute(mine).scalar_one_or_none()
    most = json.loads(obligations or "{}").get("max_parallel_jobs")
    if most is None:
        return False
    job = states.locked(session, job_id)
    # Two claims at the same moment must see each other.
    ledger.lock(session, [job.population_id])
    running = sa.select(sa.func.count()).where(
        _JOB.c.dataset_id == job.dataset_id, _JOB.c.status == "running"
    )
    return bool(session.execute(running).scalar_one() >= most)
