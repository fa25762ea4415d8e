"""The next block of a running job: the policy asked again, then charged, in that order.

This is the gate every opening of data goes through. The policy engine is asked outside of any
transaction; the revision, the cancel wish, the freeze and the fence are then read under the job's
lock, and only if all of them still stand is the block charged. When `next_block` returns, the
charge is committed. It must never return rounds that nobody paid for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import ledger, witness
from jobs import recheck, rounds, settlement, states
from jobs.judgement import Judgement
from jobs.rounds import Block, Claim
from jobs.services import Services
from jobs.tables import Job
from kit import log, prepared
from kit.prepared import Prepared
from policies import revisions
from policies.verdict import Obligations
from privacy_gateway import canonical
from privacy_gateway.errors import Refused

# How often the policy may change between its answer and the lock before the job is put back.
ASK_AGAIN = 5

_JOB = Job.__table__  # type: ignore[attr-defined]
_OBLIGE = Prepared(
    sa.update(_JOB)
    .where(_JOB.c.id == sa.bindparam("held_job"))
    .values(obligations=sa.bindparam("word"))
)

_log = log.get("jobs")


class PolicyDown(Exception):
    """The policy could not be asked, or the database has become an older one while it was in use;
    nothing was charged and the job may be tried later.
    """


def next_block(services: Services, held: Claim, *, most: int | None = None) -> Block | None:
    """Ask the policy again and charge the next rounds.

    Args:
        services: the outside world.
        held: the claim.
        most: rounds of the block at most, ≥ 1; never more than the settings say.

    Returns:
        Rounds that are paid for, committed. An empty block when every round is published or the
        reservation is used up. None when the job ended here: cancelled, frozen, stopped by policy.

    Raises:
        FencedOut: the claim is no longer in force.
        PolicyDown: no answer, or the policy kept changing.
    """
    limit = services.settings.rounds_per_block
    wanted = limit if most is None else min(most, limit)
    for _ in range(ASK_AGAIN):
        try:
            judged = _ask(services, held)
        except Refused as refused:
            _end(services, held, f"the job is not admissible any more: {refused.code}")
            return None
        if judged is not None and judged.decision.code == "policy_unavailable":
            raise PolicyDown
        with services.database.unit_of_work() as session:
            job = rounds.standing(session, held)
            _refuse_older(services, session)
            if judged is None or recheck.still_active(session, job, judged.decision):
                return _settled(services, session, held, job, judged, wanted)
    raise PolicyDown


def _refuse_older(services: Services, session: Session) -> None:
    """Nothing is charged to a database that has forgotten what was spent; it may be tried later."""
    try:
        witness.refuse_older(session, services.settings.witness())
    except Refused as refusal:
        _log.error("rolled_back", reason=refusal.detail)
        raise PolicyDown from refusal


def _ask(services: Services, held: Claim) -> Judgement | None:
    """The policy's answer for this moment; None when no round is left to charge."""
    with services.database.read() as session:
        job = states.seen(session, held.job_id)
        if job.rounds_published >= job.rounds:
            return None
        seen, proposal = recheck.look(services, session, job)
    return recheck.ask(services, job, seen, proposal, now=services.clock())


def _settled(
    services: Services,
    session: Session,
    held: Claim,
    job: Job,
    judged: Judgement | None,
    most: int,
) -> Block | None:
    """Everything under the job's lock: end the job, or charge."""
    now = services.clock()
    if job.cancel_requested_at is not None:
        _over(session, job, "cancelled", "cancelled", now)
        return None
    if judged is None:
        return Block(job.rounds_published + 1, 0)
    decision_id = revisions.record(
        session, judged.decision, job_id=job.id, subject_id=job.researcher_id, now=now
    )
    if not recheck.allows(job, judged.decision):
        reason = f"the owner's policy does not allow it any more: {_codes(judged)}"
        _over(session, job, "stopped_by_policy", reason, now)
        return None
    obligations = judged.decision.verdict.obligations
    if _oblige(session, job, obligations):
        most = 1  # what is kept apart from now on takes another time
    block = _charge(session, held, job, judged, decision_id, most, now)
    return None if block is None else replace(block, isolation=obligations.isolation)


def _charge(
    session: Session,
    held: Claim,
    job: Job,
    judged: Judgement,
    decision_id: str,
    most: int,
    now: datetime,
) -> Block | None:
    """Charge, or end the job as frozen."""
    try:
        # What the policy was asked about may be frozen since; a freeze is noted under this lock.
        ledger.lock(session, [job.population_id])
        if recheck.withdrawn(session, job):
            raise Refused("frozen", "the dataset is frozen by its owner")
        return rounds.charge(
            session,
            held,
            job,
            rounds=most,
            facts=recheck.facts(job, judged.situation, judged.decision, decision_id),
            now=now,
        )
    except Refused as refused:
        if refused.code != "frozen":
            raise
        _over(session, job, "frozen", refused.detail, now)
        return None


def _oblige(session: Session, job: Job, obligations: Obligations) -> bool:
    """The owner's latest word is the one that counts when results are handed out.

    Returns:
        Whether it is another one than before.
    """
    text = canonical.dumps(obligations.as_dict()).decode()
    if text == job.obligations:
        return False
    prepared.one(session, _OBLIGE, {"held_job": job.id, "word": text})
    return True


def _over(session: Session, job: Job, status: str, reason: str, now: datetime) -> None:
    """The end of a job whose row is locked."""
    settlement.end(session, states.locked(session, job.id), status, reason=reason, now=now)


def _end(services: Services, held: Claim, reason: str) -> None:
    with services.database.unit_of_work() as session:
        job = rounds.standing(session, held)
        _over(session, job, "stopped_by_policy", reason, services.clock())


def _codes(judged: Judgement) -> str:
    """Names of the rules that fired, which the researcher may know."""
    codes = {denial.code for denial in judged.decision.verdict.denials}
    return ", ".join(sorted(codes)) or "approval_needed"
