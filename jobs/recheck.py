"""The owner's policy asked again about a job that runs, before each block is charged.

The question is the one of the admission at this moment: the job's own reservation and charges are
taken out of budget, quota and history, so the job does not stand in its own way, while time,
policy, everybody else's use and the dataset's state are fresh. Nothing here charges; the caller
compares the revision again under the job's lock.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import filter as budget_filter
from accounting import ledger
from accounting.ledger import Balance, Held, QuotaBalance
from jobs import judgement, situation
from jobs.judgement import Judgement
from jobs.principal import Principal
from jobs.proposal import Proposal, propose
from jobs.services import Services
from jobs.situation import History, Situation, charged_nano
from jobs.tables import Job
from kit import prepared
from kit.clock import from_micros
from kit.prepared import Prepared
from policies.ask import Decision
from privacy_gateway import schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest

Account = TypeVar("Account", Balance, QuotaBalance)

_JOB = Job.__table__  # type: ignore[attr-defined]
_CREATED = Prepared(
    sa.select(_JOB.c.created_at).where(
        _JOB.c.researcher_id == sa.bindparam("of"),
        _JOB.c.population_id == sa.bindparam("on"),
        _JOB.c.ordinal == sa.bindparam("number"),
    )
)


def request_of(job: Job) -> JobRequest:
    """The request as it was admitted."""
    return _request(job.request)


@lru_cache(maxsize=64)
def _request(text: str) -> JobRequest:
    """A running job's is read again before every block; nobody can change what was read."""
    return schemas.parse(JobRequest, json.loads(text))


def researcher_of(job: Job) -> Principal:
    """Who asked for it, as known at admission."""
    return Principal(
        job.researcher_id,
        job.researcher_email,
        job.researcher_role,  # type: ignore[arg-type]
        job.researcher_organisation,
    )


def look(services: Services, session: Session, job: Job) -> tuple[Situation, Proposal]:
    """The facts of this moment as if the job were not there, and its price.

    Raises:
        Refused: `not_found` when the dataset has no active policy any more; `price_disagreement`
            when the job would now run another mechanism than its reservation pays for, as after an
            upgrade that moved a constant of plans.
    """
    principal = researcher_of(job)
    request = request_of(job)
    seen = situation.read(session, principal, job.dataset_id, project=request.project)
    proposal = propose(services.settings, seen, request)
    if proposal.price.mechanism_digest != job.mechanism_digest:
        raise Refused("price_disagreement", "the job was priced as another mechanism")
    own = ledger.held(session, job.id)
    if own is None:
        raise Refused("not_found", f"job {job.id} has no reservation")
    balance = _without(seen.balance, own)
    share = None if seen.share is None else _without(seen.share, own)
    project = None if seen.project is None else _without(seen.project, own)
    history = _history(session, job, seen.balance, own)
    without = replace(seen, balance=balance, share=share, project=project, history=history)
    return without, proposal


def ask(
    services: Services, job: Job, seen: Situation, proposal: Proposal, *, now: datetime
) -> Judgement:
    """Put the question; outside of any transaction, the engine may take its time."""
    return judgement.judge(services, researcher_of(job), seen, proposal, request_id=job.id, now=now)


def allows(job: Job, decision: Decision) -> bool:
    """Whether the decision lets the job go on: allow, or approvals it has been given already.

    An isolation that this gateway does not have is a demand it cannot meet, so it says no.
    """
    if decision.verdict.obligations.isolation not in judgement.ISOLATIONS:
        return False
    if decision.verdict.outcome != "needs_approval":
        return decision.allowed
    given: dict[str, int] = {}
    for demand in json.loads(job.approvals):  # a role may be demanded twice; the most was met
        given[demand["role"]] = max(demand["count"], given.get(demand["role"], 0))
    return all(given.get(demand.role, 0) >= demand.count for demand in decision.verdict.approvals)


def still_active(session: Session, job: Job, decision: Decision) -> bool:
    """Whether the revision that decided is the one in force; read under the job's lock."""
    _, active = _standing(session, job)
    return active is not None and active == decision.revision_id


def withdrawn(session: Session, job: Job) -> bool:
    """Whether the data set is frozen at this moment."""
    frozen, _ = _standing(session, job)
    return frozen


def _standing(session: Session, job: Job) -> tuple[bool, str | None]:
    (found,) = prepared.ask(session, situation.standing([job.dataset_id]))
    standing: tuple[bool, str | None] = found[job.dataset_id]
    return standing


def facts(job: Job, seen: Situation, decision: Decision, decision_id: str) -> dict[str, Any]:
    """What a charge carries beside its numbers; integers and strings only."""
    return {
        "actor": job.researcher_id,
        "purpose": job.purpose,
        "dataset": seen.dataset.id,
        "dataset_version": seen.dataset.version,
        "dataset_digest": seen.dataset.digest,
        "request_digest": job.request_digest,
        "policy_revision": decision.revision_number or 0,
        "policy_digest": decision.revision_digest or "",
        "decision_id": decision_id,
        "decision_digest": decision.digest,
        "policy_engine": f"{decision.engine} {decision.engine_version}",
        "worker": job.worker or "",
    }


def _without(balance: Account, own: Held) -> Account:
    """A budget, or a share of one, without what this job holds and has spent in it."""
    return replace(
        balance,
        charged=_less(balance.charged, own.cost(own.rounds_charged)),
        reserved=_less(balance.reserved, own.cost(own.rounds_left)),
    )


def _less(vector: tuple[int, ...], part: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(a - b, 0) for a, b in zip(vector, part, strict=True))


def _history(session: Session, job: Job, balance: Balance, own: Held) -> History:
    """What this researcher did before this job; what was charged meanwhile to other jobs counts."""
    wanted = {"of": job.researcher_id, "on": job.population_id, "number": job.ordinal - 1}
    found = prepared.one(session, _CREATED, wanted).rows
    last = found[0].created_at if found else None
    quota = ledger.quota(session, job.population_id, job.researcher_id, delta=job.delta)
    others = _without(quota, own)
    return History(
        jobs=job.ordinal - 1,
        charged_nano=charged_nano(balance, budget_filter.add(others.charged, others.reserved)),
        last_job_at=None if last is None else from_micros(last),
    )
