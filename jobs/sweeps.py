"""Sweeps: several runs quoted, reserved and settled as one.

Every member is priced, put to its owner's policy and reserved after the members before it, so the
last question carries the total; all of it happens in one transaction, and one refusal undoes it
all. From there on each member is an ordinary job, and the sweep is over when they all are. The
reserve entries of the members name the sweep. This module must never leave a part of a sweep
reserved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from accounting import ledger
from jobs import initial, judgement, keys, lifecycle, runnable, settle, situation, states
from jobs.attempt import Attempt, Denied, Outcome
from jobs.judgement import Judgement
from jobs.principal import Principal
from jobs.refusal import refusal_of
from jobs.services import Services
from jobs.tables import Job
from jobs.tables_sweeps import SWEEP, SWEEP_MEMBER
from jobs.views import job_view, visible_to
from kit.clock import from_micros, micros, rfc3339
from policies import revisions
from privacy_gateway import canonical
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.schemas import JobRequest, SweepView

# On SQLite nobody else writes meanwhile, and a worker that waits longer than 30 s loses its job.
MOST_SECONDS = 10.0
_TOO_SLOW = "the policies take too long to judge so many runs as one; ask for fewer at once"

_JOB = Job.__table__  # type: ignore[attr-defined]


class _Undo(Exception):
    """Takes the whole transaction back: a member was refused, or the key is somebody else's."""

    def __init__(self, place: int, answer: Denied | Exception | None) -> None:
        super().__init__(place)
        self.place, self.answer = place, answer


def submit(
    services: Services,
    principal: Principal,
    requests: Sequence[JobRequest],
    idempotency_key: str | None,
) -> tuple[SweepView, bool]:
    """Admit all members or none.

    Args:
        services: the outside world.
        principal: the researcher.
        requests: the members, in the order in which they are judged and reserved.
        idempotency_key: her name for this attempt; a refused one does not use it up.

    Returns:
        The sweep, and whether the same key and bodies had made it before.

    Raises:
        Refused: what `jobs.admission.submit` raises for the first member that is refused, its
            fields below `jobs[i]`, with the facts `member` (from 0) and `sweep`; the refusal is
            recorded, and nothing is reserved.
    """
    principal.require("researcher")
    keys.check(idempotency_key)
    digest = canonical.digest([_body(request) for request in requests], floats=True)
    with services.database.read() as session:
        known = _known(session, principal, idempotency_key, digest)
    if known is not None:
        return known, True
    sweep_id = services.new_id("swp")
    attempts = [
        _attempt(services, principal, request, place, sweep_id)
        for place, request in enumerate(requests)
    ]
    row = {
        "id": sweep_id,
        "researcher_id": principal.id,
        "key": idempotency_key,
        "request_hash": digest,
    }
    try:
        with services.database.unit_of_work() as session:
            return _admit(services, session, row, attempts), False
    except _Undo as undone:
        return _undone(services, principal, row, attempts, undone), True


def find(services: Services, principal: Principal, sweep_id: str) -> SweepView:
    """One sweep, with those of its jobs that the caller may see.

    Raises:
        Refused: `not_found`, also where the caller may see none of them.
    """
    with services.database.read() as session:
        return _view(session, principal, sweep_id)


def cancel(services: Services, principal: Principal, sweep_id: str) -> SweepView:
    """Cancel every member that is not over; what is not charged goes back.

    Each in a transaction of its own: a worker that holds one of them is not waited for with
    others locked.

    Raises:
        Refused: `not_found`; `forbidden` for an auditor; `conflict` when all members are over.
    """
    principal.require("researcher", "owner", "admin")
    open_members = [
        job.id
        for job in find(services, principal, sweep_id).jobs
        if not states.is_final(job.status)
    ]
    if not open_members:
        raise Refused("conflict", f"every job of {sweep_id} is over")
    for job_id in open_members:
        try:
            lifecycle.cancel(services, principal, job_id)
        except Refused as refused:
            # It ended in between, which is what was asked for.
            if refused.code != "conflict":
                raise
    return find(services, principal, sweep_id)


def member_refusal(refused: Refused, place: int, **facts: Any) -> Refused:
    """A member's refusal with its fields below `jobs[place]`."""
    faults = [
        FieldError(f"jobs[{place}].{fault.field}", fault.message, fault.value, fault.limit)
        for fault in refused.errors
    ]
    told = dict(refused.facts) | {"member": place} | facts
    return Refused(refused.code, f"jobs[{place}]: {refused.detail}", errors=faults, **told)


def _body(request: JobRequest) -> dict[str, Any]:
    return request.model_dump(mode="json")


def _attempt(
    services: Services, principal: Principal, request: JobRequest, place: int, sweep_id: str
) -> Attempt:
    """A member judged alone; under the lock it is judged again after those before it."""
    try:
        runnable.refuse(request)
        with services.database.read() as session:
            seen = situation.read(session, principal, request.dataset, project=request.project)
            initial.refuse_unknown(session, principal, request)
        proposal = judgement.propose(services.settings, seen, request)
    except Refused as refused:
        raise member_refusal(refused, place) from refused
    job_id = services.new_id("job")
    text = canonical.dumps(_body(request), floats=True)
    return Attempt(
        principal=principal,
        request=request,
        request_text=text.decode(),
        request_hash=canonical.digest_of(text),
        key=None,
        job_id=job_id,
        first=judgement.judge(
            services, principal, seen, proposal, request_id=job_id, now=services.clock()
        ),
        sweep=sweep_id,
    )


def _admit(
    services: Services, session: Session, row: dict[str, Any], attempts: Sequence[Attempt]
) -> SweepView:
    """All members, or `_Undo`."""
    now = services.clock()
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    taken = session.execute(
        insert(SWEEP)
        .values(**row, created_at=micros(now))
        .on_conflict_do_nothing(index_elements=["researcher_id", "key"])
        .returning(SWEEP.c.id)
    )
    if taken.one_or_none() is None:
        raise _Undo(0, None)
    answers: list[Outcome | Denied | Exception] = []
    until = time.monotonic() + MOST_SECONDS
    while len(answers) < len(attempts):
        if answers and time.monotonic() > until:
            raise _Undo(len(answers), Refused("unavailable", _TOO_SLOW))
        # A long group is settled in parts, all of them in this one transaction.
        answers += settle.settle(services, session, attempts[len(answers) :])
    for place, answer in enumerate(answers):
        if not isinstance(answer, Outcome):
            raise _Undo(place, answer)
    session.execute(
        sa.insert(SWEEP_MEMBER),
        [
            {"sweep_id": row["id"], "place": place, "job_id": attempt.job_id}
            for place, attempt in enumerate(attempts, start=1)
        ],
    )
    return _view(session, attempts[0].principal, row["id"])


def _undone(
    services: Services,
    principal: Principal,
    row: dict[str, Any],
    attempts: Sequence[Attempt],
    undone: _Undo,
) -> SweepView:
    """After nothing was reserved: the sweep that was there first, or the recorded refusal.

    Raises:
        Refused: of the member that was refused.
    """
    answer = undone.answer
    if answer is None:
        with services.database.read() as session:
            known = _known(session, principal, row["key"], row["request_hash"])
        if known is None:
            raise Refused("conflict", "this Idempotency-Key is in use just now; try again")
        return known
    if isinstance(answer, Refused):
        raise member_refusal(answer, undone.place, sweep=row["id"]) from answer
    if isinstance(answer, Exception):
        raise answer
    attempt = attempts[undone.place]
    with services.database.unit_of_work() as session:
        decision_id = _record(session, attempt, answer.judgement, services.clock())
    refused = refusal_of(answer.judgement, decision_id=decision_id, offer=None)
    raise member_refusal(refused, undone.place, sweep=row["id"])


def _record(session: Session, attempt: Attempt, judged: Judgement, now: datetime) -> str:
    """The decision and a `deny` entry, as of a single job."""
    decision_id = revisions.record(
        session,
        judged.decision,
        job_id=attempt.job_id,
        subject_id=attempt.principal.id,
        now=now,
        dataset_id=attempt.request.dataset,
    )
    ledger.deny(
        session,
        population_id=attempt.population_id,
        job_id=attempt.job_id,
        researcher_id=attempt.principal.id,
        code=judged.code or "policy_error",
        facts={
            "sweep": attempt.sweep,
            "request_digest": attempt.request_hash,
            "decision_id": decision_id,
            "decision_digest": judged.decision.digest,
        },
        now=now,
        price=judged.proposal.price,
        rounds=judged.proposal.plan.charge_units,
    )
    return decision_id


def _known(
    session: Session, principal: Principal, key: str | None, digest: str
) -> SweepView | None:
    """The sweep this key stands for already, if any.

    Raises:
        Refused: `idempotency_mismatch` when it was made by other bodies.
    """
    if key is None:
        return None
    mine = sa.select(SWEEP).where(SWEEP.c.researcher_id == principal.id, SWEEP.c.key == key)
    row = session.execute(mine).one_or_none()
    if row is None:
        return None
    keys.refuse_other_body(key, row.request_hash, digest, row.id)
    return _view(session, principal, row.id)


def _view(session: Session, principal: Principal, sweep_id: str) -> SweepView:
    rows = session.execute(
        sa.select(_JOB.c.id, SWEEP.c.created_at)
        .join_from(SWEEP_MEMBER, SWEEP)
        .join(_JOB, _JOB.c.id == SWEEP_MEMBER.c.job_id)
        .where(SWEEP.c.id == sweep_id, visible_to(principal))
        .order_by(SWEEP_MEMBER.c.place)
    ).all()
    if not rows:
        raise Refused("not_found", f"there is no sweep {sweep_id}")
    members = [job_view(session, session.get_one(Job, row.id)) for row in rows]
    over = sum(states.is_final(job.status) for job in members)
    return SweepView(
        id=sweep_id,
        status="over" if over == len(members) else "open",
        created_at=rfc3339(from_micros(rows[0].created_at)),
        jobs=members,
        ended=over,
        rounds=sum(job.rounds for job in members),
        rounds_charged=sum(job.rounds_charged for job in members),
    )
