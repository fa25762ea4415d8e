"""One job in the hands of one worker: claim, lease, charge, publish.

The claim raises the job's fence; everything a worker writes afterwards is checked against that
fence and the lease under the row's lock, so a worker that was stopped, partitioned or believed
dead can neither charge nor publish. Leases are measured with the database's clock, because
workers' clocks differ. A charge must be committed before the data of its rounds is opened; that
order is the coordinator's to keep, which is why nothing here commits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from accounting import ledger
from accounting.ledger import Charge
from jobs import events, states
from jobs.errors import FencedOut
from jobs.tables import Job, JobRelease, Outbox
from kit import prepared
from kit.clock import micros
from kit.database_time import database_micros
from kit.prepared import Asked, Call, Prepared
from privacy_gateway import canonical

_JOB = Job.__table__  # type: ignore[attr-defined]
_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]
_OUTBOX = Outbox.__table__  # type: ignore[attr-defined]


# These run in every round. A lease that ended is over even before the reaper has seen it.
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
_PUBLISH = {
    is_sqlite: Prepared(
        insert(_RELEASE).on_conflict_do_nothing(index_elements=["job_id", "round"]),
        *("job_id", "round", "attempt", "fence", "digest"),
        *("weights", "server_state", "published_at"),
    )
    for is_sqlite, insert in ((True, sqlite_insert), (False, postgresql_insert))
}
_FORGET = Prepared(
    sa.update(_RELEASE)
    .where(
        _RELEASE.c.job_id == sa.bindparam("held_job"), _RELEASE.c.round == sa.bindparam("old_round")
    )
    .values(weights=None, server_state=None)
)
_CHARGED = Prepared(
    sa.update(_JOB)
    .where(_JOB.c.id == sa.bindparam("held_job"))
    .values(rounds_charged=sa.bindparam("charged"), updated_at=sa.bindparam("now"))
)
# The cap on attempts is meant for a job that does not get on.
_GET_ON = Prepared(
    sa.update(_JOB)
    .where(_JOB.c.id == sa.bindparam("held_job"))
    .values(rounds_published=sa.bindparam("published"), attempt=0, updated_at=sa.bindparam("now"))
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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last published round: where a job goes on. Both blobs are of `kit.tensors`."""

    round: int
    weights: bytes
    server_state: bytes | None
    digest: str


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
    _renewed(session, held)


def _renewed(session: Session, held: Claim) -> Any:
    """Renew, and tell how far the job is; its row is locked until the transaction ends."""
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


def publish(
    session: Session,
    held: Claim,
    *,
    round_number: int,
    weights: bytes | None,
    server_state: bytes | None,
    digest: str,
    now: datetime,
    clip_norm: float | None = None,
) -> bool:
    """Publish one round's noisy model in place of the older one.

    An adaptive clip norm is a released value too and stands in the event. An evaluation publishes
    no weights; `digest` is then that of its metrics.

    Returns:
        False when the round was published before; the stored model stays as it is.

    Raises:
        FencedOut: the claim is no longer in force.
        ValueError: the round does not follow the last published one, nobody paid for it, or it
            stands there though the job has not counted it. The transaction must not be committed.
    """
    job = _renewed(session, held)
    if round_number <= job.rounds_published:
        return False
    if round_number != job.rounds_published + 1 or round_number > job.rounds:
        raise ValueError(f"round {round_number} does not follow {job.rounds_published}")
    if round_number > job.rounds_charged:
        raise ValueError(f"round {round_number} is published though nobody paid for it")
    row = {
        "job_id": held.job_id,
        "round": round_number,
        "attempt": held.attempt,
        "fence": held.fence,
        "digest": digest,
        "weights": weights,
        "server_state": server_state,
        "published_at": micros(now),
    }
    body: dict[str, Any] = {"round": round_number, "rounds": job.rounds}
    if clip_norm is not None:
        body["clip_norm"] = clip_norm
    insert = _PUBLISH[session.get_bind().dialect.name == "sqlite"]
    stored, *_ = prepared.ask(
        session,
        _in_place_of(held.job_id, round_number - 1, (insert, row)),
        _moving_on(held.job_id, round_number, now),
        events.recording(held.job_id, "published", now=now, body=body),
    )
    if not stored:
        raise ValueError(f"round {round_number} stands there, but the job has not counted it")
    return True


def _in_place_of(job_id: str, before: int, publishing: Call) -> Asked[bool]:
    """Only the newest model is needed to go on; the row of the one before keeps its digest.

    The old one goes first: SQLite overwrites what is deleted, and the new model takes its pages.
    """
    forgetting = (_FORGET, {"held_job": job_id, "old_round": before})
    return Asked([forgetting, publishing], lambda answers: answers[1].matched == 1)


def _moving_on(job_id: str, published: int, now: datetime) -> Asked[None]:
    moved = {"held_job": job_id, "published": published, "now": micros(now)}
    return prepared.nothing([(_GET_ON, moved)])


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


def measure(session: Session, job: Job, metrics: Mapping[str, float]) -> None:
    """Keep metrics of the newest release, computed on public data."""
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    session.execute(
        _RELEASE.update()
        .where(_RELEASE.c.job_id == job.id, _RELEASE.c.round == job.rounds_published)
        .values(metrics=canonical.dumps(finite, floats=True).decode())
    )


def checkpoint(session: Session, job_id: str) -> Checkpoint | None:
    """The last published round with its weights; None before the first."""
    row = session.execute(
        sa.select(_RELEASE)
        .where(_RELEASE.c.job_id == job_id, _RELEASE.c.weights.is_not(None))
        .order_by(_RELEASE.c.round.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return Checkpoint(row.round, row.weights, row.server_state, row.digest)


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
