"""Admission: from a request to a reserved job, or to a recorded refusal, in one transaction.

The policy is asked and the price computed before any lock. Then one writing transaction takes the
idempotency key, locks the budget, compares the versions everything was decided on, asks again if
one moved, reserves, and writes job, events and outbox row. Nothing is published inside; the caller
relays the outbox after the commit. A refusal records its decision and a `deny` entry and reserves
nothing. This module must never reserve on a decision that it has not compared under the lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from accounting import ledger
from accounting.ledger import Balance
from jobs import approvals, counter, judgement, situation, states
from jobs.judgement import Judgement
from jobs.principal import Principal
from jobs.refusal import refusal_of
from jobs.services import Services
from jobs.situation import Situation
from jobs.tables import Idempotency, Job
from jobs.views import job_view
from kit.clock import micros
from policies import revisions
from privacy_gateway import canonical
from privacy_gateway.errors import FieldError, Refused, invalid
from privacy_gateway.schemas import JobRequest, JobView

_IDEMPOTENCY = Idempotency.__table__  # type: ignore[attr-defined]

MAX_KEY_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """An admitted job; `replayed` when the same key and body had made it before."""

    job: JobView
    replayed: bool


@dataclass(frozen=True, slots=True)
class _Submission:
    """One attempt to submit, with everything that is fixed before the lock."""

    principal: Principal
    request: JobRequest
    request_text: str
    request_hash: str
    key: str | None
    job_id: str


def submit(
    services: Services, principal: Principal, request: JobRequest, idempotency_key: str | None
) -> Outcome:
    """Admit a job.

    Args:
        services: the outside world.
        principal: the researcher.
        request: what she asks for.
        idempotency_key: her name for this attempt, kept for ever once a job stands for it; a
            refused attempt does not use it up.

    Returns:
        The job, reserved and queued (or waiting for people); the same one for a repeated request.

    Raises:
        Refused: `policy_unavailable`, `policy_error`, `frozen`, `policy_denied`,
            `budget_exceeded`, `quota_exceeded` or `floor`, recorded, with facts `rules`, `price`,
            `left`, `counter_offer`, `decision`; `idempotency_mismatch`; `not_found`, `forbidden`,
            `unsupported`, `invalid_request`, `model_refused` and price refusals, not recorded.
    """
    principal.require("researcher")
    _check_key(idempotency_key)
    body = request.model_dump(mode="json")
    submission = _Submission(
        principal=principal,
        request=request,
        request_text=canonical.dumps(body, floats=True).decode(),
        request_hash=canonical.digest(body, floats=True),
        key=idempotency_key,
        job_id=services.new_id("job"),
    )
    with services.database.read() as session:
        known = _known(session, submission)
        if known is not None:
            return known
        seen = situation.read(session, principal, request.dataset)
    first = _judge(services, submission, seen, services.clock())
    with services.database.unit_of_work() as session:
        settled = _settle(services, session, submission, first)
    if isinstance(settled, Outcome):
        return settled
    offer = counter.offer(services, principal, settled.judgement)
    raise refusal_of(settled.judgement, decision_id=settled.decision_id, offer=offer)


@dataclass(frozen=True, slots=True)
class _Denied:
    """A refusal that is recorded but not yet told."""

    judgement: Judgement
    decision_id: str


def _settle(
    services: Services, session: Session, submission: _Submission, first: Judgement
) -> Outcome | _Denied:
    """The writing transaction's part; the caller commits whatever it returns."""
    now = services.clock()
    if not _take_key(session, submission, now):
        known = _known(session, submission)
        if known is None:
            raise Refused("conflict", "this Idempotency-Key is in use just now; try again")
        return known
    population_id = first.situation.balance.population_id
    balance = ledger.lock(session, [population_id])[population_id]
    judged = first
    if first.accepted:
        judged = _still(services, session, submission, first, now)
    if judged.accepted:
        return Outcome(_admit(services, session, submission, judged, balance, now), replayed=False)
    decision_id = revisions.record(
        session,
        judged.decision,
        job_id=submission.job_id,
        subject_id=submission.principal.id,
        now=now,
    )
    _deny(session, submission, judged, decision_id, now)
    _return_key(session, submission)
    return _Denied(judged, decision_id)


def _still(
    services: Services,
    session: Session,
    submission: _Submission,
    first: Judgement,
    now: datetime,
) -> Judgement:
    """The judgement if nothing it was made on has moved, else a new one; the lock is held."""
    fresh = situation.read(session, submission.principal, submission.request.dataset)
    if fresh.versions == first.situation.versions:
        return first
    return _judge(services, submission, fresh, now)


def _judge(
    services: Services, submission: _Submission, facts: Situation, now: datetime
) -> Judgement:
    proposal = judgement.propose(services.settings, facts, submission.request)
    return judgement.judge(
        services, submission.principal, facts, proposal, request_id=submission.job_id, now=now
    )


def _admit(
    services: Services,
    session: Session,
    submission: _Submission,
    judged: Judgement,
    balance: Balance,
    now: datetime,
) -> JobView:
    """Reserve, and write decision, job, events and hint."""
    decision_id = revisions.record(
        session,
        judged.decision,
        job_id=submission.job_id,
        subject_id=submission.principal.id,
        now=now,
    )
    deadline = now + timedelta(seconds=services.settings.reservation_seconds)
    until = approvals.approve_before(judged.decision.verdict.approvals, now)
    ledger.reserve(
        session,
        balance,
        job_id=submission.job_id,
        researcher_id=submission.principal.id,
        price=judged.proposal.price,
        rounds=judged.proposal.plan.charge_units,
        facts=_facts(submission, judged, decision_id),
        now=now,
        lease_expires_at=deadline,
    )
    job = _job(submission, judged, decision_id, until, now)
    states.begin(session, job, now=now)
    if until is not None:
        demands = [demand.as_dict() for demand in judged.decision.verdict.approvals]
        states.move(session, job, "awaiting_approval", now=now, body={"approvals": demands})
    else:
        states.move(session, job, "reserved", now=now)
        states.enqueue(session, job, now=now)
    return job_view(session, job)


def _job(
    submission: _Submission,
    judged: Judgement,
    decision_id: str,
    approve_before: datetime | None,
    now: datetime,
) -> Job:
    """The row of a job that was just submitted."""
    principal, request, facts = submission.principal, submission.request, judged.situation
    verdict, proposal = judged.decision.verdict, judged.proposal
    return Job(
        id=submission.job_id,
        population_id=facts.balance.population_id,
        dataset_id=facts.dataset.id,
        dataset_version=facts.dataset.version,
        owner_id=facts.dataset.owner_id,
        researcher_id=principal.id,
        researcher_email=principal.email,
        researcher_role=principal.role,
        researcher_organisation=principal.organisation,
        status="submitted",
        kind=request.kind,
        purpose=request.purpose,
        request=submission.request_text,
        request_digest=submission.request_hash,
        population_clients=facts.balance.clients,
        clients_per_round=request.clients_per_round,
        noise_multiplier=request.noise_multiplier,
        mechanism_digest=proposal.price.mechanism_digest,
        rounds=request.rounds,
        epsilon_nano=proposal.epsilon_nano,
        delta=facts.balance.terms.delta,
        policy_revision_id=facts.revision.id,
        policy_revision=facts.revision.number,
        decision_id=decision_id,
        decision_digest=judged.decision.digest,
        obligations=canonical.dumps(verdict.obligations.as_dict()).decode(),
        approvals=approvals.demands_text(verdict.approvals),
        approve_before=None if approve_before is None else micros(approve_before),
        created_at=micros(now),
        updated_at=micros(now),
    )


def _deny(
    session: Session, submission: _Submission, judged: Judgement, decision_id: str, now: datetime
) -> None:
    """The refusal as a ledger entry without any cost."""
    ledger.deny(
        session,
        population_id=judged.situation.balance.population_id,
        researcher_id=submission.principal.id,
        job_id=submission.job_id,
        code=judged.code or "policy_error",
        facts=_facts(submission, judged, decision_id),
        now=now,
        price=judged.proposal.price,
        rounds=judged.proposal.plan.charge_units,
    )


def _facts(submission: _Submission, judged: Judgement, decision_id: str) -> dict[str, Any]:
    """What an auditor needs beside the numbers; integers and strings only."""
    decision, dataset = judged.decision, judged.situation.dataset
    return {
        "actor": submission.principal.id,
        "dataset": dataset.id,
        "dataset_version": dataset.version,
        "dataset_digest": dataset.digest,
        "request_digest": submission.request_hash,
        "policy_revision": judged.situation.revision.number,
        "policy_digest": judged.situation.revision.digest,
        "decision_id": decision_id,
        "decision_digest": decision.digest,
        "policy_engine": f"{decision.engine} {decision.engine_version}",
    }


def _known(session: Session, submission: _Submission) -> Outcome | None:
    """The job this key stands for already, if any.

    Raises:
        Refused: `idempotency_mismatch` when it was made by another body.
    """
    if submission.key is None:
        return None
    query = (
        sa.select(_IDEMPOTENCY.c.request_hash, Job)
        .join(Job, Job.id == _IDEMPOTENCY.c.job_id)
        .where(*_my_key(submission))
    )
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    if row.request_hash != submission.request_hash:
        raise Refused(
            "idempotency_mismatch",
            "this Idempotency-Key stands for a job with another body; take a new key",
            errors=[FieldError("Idempotency-Key", "was used with another body", submission.key)],
            job=row.Job.id,
        )
    return Outcome(job_view(session, row.Job), replayed=True)


def _take_key(session: Session, submission: _Submission, now: datetime) -> bool:
    """Make the key ours; waits for a concurrent holder, False when it stands for a job."""
    if submission.key is None:
        return True
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    taken = session.execute(
        insert(_IDEMPOTENCY)
        .values(
            principal_id=submission.principal.id,
            key=submission.key,
            request_hash=submission.request_hash,
            job_id=submission.job_id,
            created_at=micros(now),
        )
        .on_conflict_do_nothing(index_elements=["principal_id", "key"])
        .returning(_IDEMPOTENCY.c.key)
    )
    return taken.one_or_none() is not None


def _return_key(session: Session, submission: _Submission) -> None:
    """A refused attempt does not use up its key."""
    if submission.key is not None:
        session.execute(_IDEMPOTENCY.delete().where(*_my_key(submission)))


def _my_key(submission: _Submission) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _IDEMPOTENCY.c.principal_id == submission.principal.id,
        _IDEMPOTENCY.c.key == submission.key,
    )


def _check_key(key: str | None) -> None:
    if key is not None and not (1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        raise invalid("Idempotency-Key", f"is 1 to {MAX_KEY_LENGTH} printable characters")
