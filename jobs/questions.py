"""The facts of a proposal in the words that an owner's policy is asked in.

What is sent here is stored with the decision and may be read by owner and auditor, so nothing may
depend on a client's data. ε goes as whole nano-units: costs rounded up, what remains rounded down.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypedDict

from accounting import curve
from accounting import filter as budget_filter
from accounting.ledger import QuotaBalance
from jobs.catalogue import has_public_test
from jobs.principal import Principal
from jobs.proposal import Proposal
from jobs.situation import Situation, left_nano, spent_nano, terms_of
from policies import question
from policies.question import Question
from privacy_gateway.first_weights import Initial
from privacy_gateway.schemas import Algorithm


def question_of(
    principal: Principal,
    situation: Situation,
    proposal: Proposal,
    request_id: str,
    now: datetime,
) -> Question:
    """Everything the owner's rules may know."""
    dataset, revision = situation.dataset, situation.revision
    return question.build(
        dataset=question.DatasetFacts(
            id=dataset.id,
            population=situation.balance.population_id,
            clients=situation.balance.clients,
            privacy_unit=situation.balance.privacy_unit,
            tags=tuple(dataset.tags),
            public_test_examples=dataset.test_examples if has_public_test(dataset) else 0,
        ),
        job=_job_facts(proposal, _model_facts(proposal)),
        policy_id=revision.id,
        policy_version=revision.number,
        **_moving(principal, situation, proposal, request_id, now),
    )


def questions_of(
    principal: Principal, situation: Situation, request_id: str, now: datetime
) -> Callable[[Proposal], Question]:
    """`question_of` for many proposals of one model under the same facts, written once."""
    first: list[tuple[Question, question.ModelFacts]] = []
    spent = spent_nano(situation.balance)

    def questioned(proposal: Proposal) -> Question:
        if not first:
            asked = question_of(principal, situation, proposal, request_id, now)
            first.append((asked, _model_facts(proposal)))
            return asked
        asked, model = first[0]
        cost = _cost_facts(situation, proposal, spent)
        return question.of_job(asked, job=_job_facts(proposal, model), cost=cost)

    return questioned


def question_again(
    first: Question,
    principal: Principal,
    situation: Situation,
    proposal: Proposal,
    request_id: str,
    now: datetime,
) -> Question:
    """`question_of`, where data set, revision, population's terms and proposal are the first's."""
    return question.at_moment(first, **_moving(principal, situation, proposal, request_id, now))


class _Moving(TypedDict):
    request_id: str
    kind: question.Kind
    at: datetime
    subject: question.SubjectFacts
    cost: question.CostFacts
    budget: question.BudgetFacts
    history: question.HistoryFacts


def _moving(
    principal: Principal,
    situation: Situation,
    proposal: Proposal,
    request_id: str,
    now: datetime,
) -> _Moving:
    """What is otherwise at another moment."""
    spent = spent_nano(situation.balance)
    return {
        "request_id": request_id,
        "kind": proposal.request.kind,
        "at": now,
        "subject": question.SubjectFacts(principal.id, (principal.role,), principal.organisation),
        "cost": _cost_facts(situation, proposal, spent),
        "budget": _budget_facts(situation, spent),
        "history": question.HistoryFacts(
            jobs_by_subject=situation.history.jobs,
            charged_epsilon_nano_by_subject=situation.history.charged_nano,
            last_job_time=situation.history.last_job_at,
        ),
    }


def _algorithm(algorithm: Algorithm) -> str:
    """The algorithm's name; with a trainer of the operator's, one that no rule allows unasked."""
    return algorithm.name + (f":{algorithm.trainer}" if algorithm.trainer else "")


def _job_facts(proposal: Proposal, model: question.ModelFacts) -> question.JobFacts:
    request = proposal.request
    return question.JobFacts(
        algorithm=_algorithm(request.algorithm),
        purpose=request.purpose,
        project=request.project or "",
        rounds=request.rounds,
        clients_per_round=request.clients_per_round,
        noise_multiplier=request.noise_multiplier,
        clip_norm=request.algorithm.clip_norm,
        local_epochs=request.algorithm.local_epochs,
        outputs=tuple(sorted(set(request.outputs))),
        initial=_initial(request.initial),
        split=request.split,
        model=model,
    )


def _model_facts(proposal: Proposal) -> question.ModelFacts:
    spec = proposal.request.model.architecture
    return question.ModelFacts(
        fingerprint=spec.fingerprint,
        layers=tuple(layer.type for layer in spec.layers),
        parameters=proposal.size.parameters,
    )


def _initial(initial: Initial | None) -> question.InitialFacts:
    if initial is None:
        return question.InitialFacts()
    if initial.job is not None:
        return question.InitialFacts("release", initial.job)
    return question.InitialFacts("upload", initial.weights or "")


def _cost_facts(situation: Situation, proposal: Proposal, spent: int) -> question.CostFacts:
    compute = proposal.compute
    return question.CostFacts(
        accountant=curve.ENGINE,
        delta=situation.balance.terms.delta_float,
        epsilon_nano=proposal.epsilon_nano,
        budget_epsilon_nano_before=spent,
        budget_epsilon_nano_after=spent_nano(situation.balance, proposal.cost),
        compute=question.ComputeFacts(compute["client_updates"], compute["cpu_seconds_estimate"]),
    )


def _budget_facts(situation: Situation, spent: int) -> question.BudgetFacts:
    balance, share = situation.balance, situation.share
    charged_only = budget_filter.epsilon_spent_nano(balance.terms, balance.charged)
    return question.BudgetFacts(
        epsilon_nano=balance.terms.epsilon_nano,
        remaining_epsilon_nano=max(0, balance.terms.epsilon_nano - spent),
        reserved_epsilon_nano=spent - charged_only,
        quota=_quota_facts(share),
        project_quota=_quota_facts(situation.project),
    )


def _quota_facts(share: QuotaBalance | None) -> question.QuotaFacts | None:
    if share is None:
        return None
    return question.QuotaFacts(terms_of(share).epsilon_nano, left_nano(share))
