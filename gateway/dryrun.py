"""What a policy revision would decide, tried out: for a new request, or a past one as stored.

A new request is asked in the name of a researcher, because researchers ask for jobs: rules about
roles, quotas and history would come out wrong for the owner. Nothing here may record, reserve or
charge; and a dry run never tells more than the owner of the data set may see anyway.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

import jobs.tables  # noqa: F401
from jobs import judgement, situation
from jobs.principal import Principal
from jobs.services import Services
from jobs.views import find
from policies import revisions
from policies.ask import Decision, ask
from policies.engine import Revision
from policies.question import Question, for_policy
from privacy_gateway import canonical
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.schemas import JobRequest, Rule, parse
from privacy_gateway.views import DryRunView

_JOB = SQLModel.metadata.tables["job"]
_NEWEST = (
    sa.select(_JOB.c.id)
    .where(_JOB.c.dataset_id == sa.bindparam("dataset"))
    .order_by(_JOB.c.created_at.desc(), _JOB.c.id.desc())
    .limit(1)
)

SAMPLE_ID = "usr_sample_researcher"
"""Nobody's account, so it has no quota and no history."""


def sample_researcher(owner: Principal) -> Principal:
    """A researcher of the owner's organisation who never asked for anything before."""
    return Principal(SAMPLE_ID, "sample-researcher@invalid", "researcher", owner.organisation)


def of_request(
    services: Services, asking: Principal, revision: Revision, request: JobRequest
) -> DryRunView:
    """Price and judge a new request under `revision`, as if it decided now.

    Args:
        services: the outside world.
        asking: the researcher in whose name it is asked, with quota and history.
        revision: what would decide.
        request: the job.

    Raises:
        Refused: `invalid_request` on `job.dataset` for another data set; whatever a quote raises.
    """
    if request.dataset != revision.dataset_id:
        fault = "the request is about another data set than the policy"
        raise Refused("invalid_request", f"job.dataset: {fault}")
    with services.database.read() as session:
        known = situation.read(
            session, asking, request.dataset, project=request.project, revision=revision
        )
    proposal = judgement.propose(services.settings, known, request)
    judged = judgement.judge(
        services,
        asking,
        known,
        proposal,
        request_id=services.new_id("dry"),
        now=services.clock(),
    )
    return _view(judged.decision, judged.code, list(judged.rules))


def request_of(
    session: Session, owner: Principal, dataset_id: str, asked: JobRequest | str | None
) -> JobRequest:
    """The request a trial starts from: as given, a past job's, or the newest job's.

    Raises:
        Refused: `not_found` for a job that is not on this data set; `not_ready` without any job;
            `invalid_request` on `job.dataset` for another data set.
    """
    if isinstance(asked, JobRequest):
        if asked.dataset != dataset_id:
            raise invalid("job.dataset", "is another data set than the policy's")
        return asked
    job_id = asked or session.scalar(_NEWEST, {"dataset": dataset_id})
    if job_id is None:
        raise Refused("not_ready", "no job has been asked for yet; give one to start from")
    job = find(session, owner, job_id)
    if job.dataset_id != dataset_id:
        raise Refused("not_found", f"there is no job {job_id}")
    return parse(JobRequest, canonical.loads_strict(job.request.encode()))


def of_past_job(
    services: Services, owner: Principal, revision: Revision, job_id: str
) -> DryRunView:
    """Ask `revision` exactly what was asked when a job was admitted.

    Raises:
        Refused: `not_found` for a job that is not on this data set or not the owner's to see.
    """
    with services.database.read() as session:
        job = find(session, owner, job_id)
        if job.dataset_id != revision.dataset_id:
            raise Refused("not_found", f"there is no job {job_id}")
        stored = revisions.decision(session, job.decision_id)["input"]
    question = for_policy(Question.of_document(stored), revision.id, revision.number)
    decision = ask(
        services.engine,
        revision,
        question,
        deadline_seconds=services.settings.policy_deadline_seconds,
    )
    rules = [
        Rule(code=denial.code, field=denial.field, message=denial.message)
        for denial in decision.verdict.denials
    ]
    return _view(decision, decision.code, rules)


def _view(decision: Decision, code: str | None, rules: list[Rule]) -> DryRunView:
    verdict: dict[str, Any] = decision.verdict.as_dict()
    return DryRunView(
        outcome=decision.verdict.outcome,
        code=code,
        rules=rules,
        approvals=verdict["approvals"],
        obligations=verdict["obligations"],
        detail=decision.detail,
        input=canonical.loads_strict(decision.input_bytes),
    )
