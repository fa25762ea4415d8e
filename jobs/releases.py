"""What a worker publishes under its claim: the noisy model of a round, in place of the older one.

One row for a round, inserted if absent, in the transaction that counts it. A published round is
never computed again; only the newest model is kept, because only that is needed to go on. Nothing
here commits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from jobs import events, rounds
from jobs.rounds import Claim
from jobs.tables import Job, JobRelease
from kit import prepared
from kit.clock import micros
from kit.prepared import Asked, Call, Prepared
from privacy_gateway import canonical

_JOB = Job.__table__  # type: ignore[attr-defined]
_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]

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
# The cap on attempts is meant for a job that does not get on.
_GET_ON = Prepared(
    sa.update(_JOB)
    .where(_JOB.c.id == sa.bindparam("held_job"))
    .values(rounds_published=sa.bindparam("published"), attempt=0, updated_at=sa.bindparam("now"))
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last published round: where a job goes on. Both blobs are of `kit.tensors`."""

    round: int
    weights: bytes
    server_state: bytes | None
    digest: str


def publish(
    session: Session,
    held: Claim,
    *,
    first: int,
    round_number: int,
    weights: bytes | None,
    server_state: bytes | None,
    digest: str,
    now: datetime,
    clip_norm: float | None = None,
) -> bool:
    """Publish a round's noisy model in place of the older one, and with it the rounds before it.

    An adaptive clip norm is a released value too and stands in the event. An evaluation publishes
    no weights; `digest` is then that of its metrics.

    Args:
        session: the transaction.
        held: the claim.
        first: the earliest round that is published by this, at most `round_number`.
        round_number: the round that the model belongs to.
        weights: the model, a file of `kit.tensors`.
        server_state: what going on needs beside it.
        digest: SHA-256 of `weights`.
        now: the time.
        clip_norm: C of the round, where it adapts.

    Returns:
        False when the round was published before; the stored model stays as it is.

    Raises:
        FencedOut: the claim is no longer in force.
        ValueError: the rounds do not follow the last published one, nobody paid for them, or one
            stands there though the job has not counted it. The transaction must not be committed.
    """
    job = rounds.progress(session, held)
    if round_number <= job.rounds_published:
        return False
    if first != job.rounds_published + 1 or not first <= round_number <= job.rounds:
        raise ValueError(
            f"rounds {first} to {round_number} of {job.rounds} do not follow {job.rounds_published}"
        )
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
        _in_place_of(held.job_id, first - 1, (insert, row)),
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
