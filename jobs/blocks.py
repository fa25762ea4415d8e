"""The next block of a running job: the policy asked again, then charged, in that order.

This is the gate every opening of data goes through. The policy engine is asked outside of any
transaction; the revision, the cancel wish, the freeze and the fence are then read under the job's
lock, and only if all of them still stand is the block charged. When `next_block` returns, the
charge is committed. It must never return rounds that nobody paid for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy.orm import Session

from accounting import ledger, witness
from jobs import recheck, rounds, settlement, states
from jobs.judgement import Judgement
from jobs.rounds import Block, Claim
from jobs.services import Services
from jobs.tables import Job
from kit import log
from policies import revisions
from privacy_gateway import canonical
from privacy_gateway.errors import Refused

# How often the policy may change between its answer and the lock before the job is put back.
ASK_AGAIN = 5

_log = log.get("jobs")


class PolicyDown(Exception):
    """The policy could not be asked, or the database has become an older one while it was in use;
    nothing was charged and the job may be tried later.
    """


def next_block(services: Services, held: Claim) -> Block | None:
    """Ask the policy again and charge the next rounds.

    Args:
        services: the outside world.
        held: the claim.

    Returns:
        Rounds that are paid for, committed. An empty block when every round is published or the
        reservation is used up. None when the job ended here: cancelled, frozen, stopped by policy.

    Raises:
        FencedOut: the claim is no longer in force.
        PolicyDown: no answer, or the policy kept changing.
    """
    for _ in range(ASK_AGAIN):
        try:
            judged = _ask(services, held)
        except Refused as refused:
            _end(services, held, f"the job is not admissible any more: {refused.code}")
            return None
        if judged is not None and judged.decision.code == "policy_unavailable":
            raise PolicyDown
        with services.database.unit_of_work() as session:
            job = rounds.guard(session, held)
            _refuse_older(services, session)
            if judged is None or recheck.still_active(session, job, judged.decision):
                return _settled(services, session, held, job, judged)
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
    services: Services, session: Session, held: Claim, job: Job, judged: Judgement | None
) -> Block | None:
    """Everything under the job's lock: end the job, or charge."""
    now = services.clock()
    if job.cancel_requested_at is not None:
        settlement.end(session, job, "cancelled", reason="cancelled", now=now)
        return None
    if judged is None:
        return Block(job.rounds_published + 1, 0)
    decision_id = revisions.record(
        session, judged.decision, job_id=job.id, subject_id=job.researcher_id, now=now
    )
    if not recheck.allows(job, judged.decision):
        reason = f"the owner's policy does not allow it any more: {_codes(judged)}"
        settlement.end(session, job, "stopped_by_policy", reason=reason, now=now)
        return None
    # The owner's latest word on outputs is the one that counts when results are handed out.
    obligations = judged.decision.verdict.obligations
    job.obligations = canonical.dumps(obligations.as_dict()).decode()
    block = _charge(services, session, held, job, judged, decision_id, now)
    return None if block is None else replace(block, isolation=obligations.isolation)


def _charge(
    services: Services,
    session: Session,
    held: Claim,
    job: Job,
    judged: Judgement,
    decision_id: str,
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
            rounds=services.settings.rounds_per_block,
            facts=recheck.facts(job, judged.situation, judged.decision, decision_id),
            now=now,
        )
    except Refused as refused:
        if refused.code != "frozen":
            raise
        settlement.end(session, job, "frozen", reason=refused.detail, now=now)
        return None


def _end(services: Services, held: Claim, reason: str) -> None:
    with services.database.unit_of_work() as session:
        job = rounds.guard(session, held)
        settlement.end(session, job, "stopped_by_policy", reason=reason, now=services.clock())


def _codes(judged: Judgement) -> str:
    """Names of the rules that fired, which the researcher may know."""
    codes = {denial.code for denial in judged.decision.verdict.denials}
    return ", ".join(sorted(codes)) or "approval_needed"
