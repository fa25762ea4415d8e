"""One request, priced and judged: the function behind quote, admission, counter-offer and inverse.

`propose` turns a request into a plan, a price and the facts a policy is asked about; `judge` puts
policy, budget, quota and floors together. Both are free of side effects and use the same numbers
whoever asks, so a quote cannot differ from the later charge. Nothing here may look at data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from accounting import curve
from accounting import filter as budget_filter
from accounting.budget import Terms
from accounting.curve import Price
from accounting.ledger import Balance, QuotaBalance
from accounting.plan import TrainingPlan, plan_of
from jobs import floors
from jobs.principal import Principal
from jobs.services import Services
from jobs.settings import Settings
from jobs.situation import Situation
from policies import ask, question
from policies.ask import Decision
from policies.question import Question
from policies.verdict import Denial, Limit
from privacy_gateway import modelspec
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.modelspec import ModelSize
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import JobRequest, Rule

# Whichever fired first in this order gives the refusal its code; all rules are listed beside it.
PRECEDENCE = (
    "policy_unavailable",
    "policy_error",
    "frozen",
    "policy_denied",
    "budget_exceeded",
    "quota_exceeded",
    "floor",
)
# A training step costs about three forward passes; one core does this many operations a second.
TRAINING_PASSES = 3
FLOPS_PER_CPU_SECOND = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Proposal:
    """A request with everything that follows from it and the population's public size.

    Attributes:
        request: what was asked for.
        plan: the frozen training plan, source of mechanism and engine parameters.
        price: cost of one round, pico-nats by order.
        cost: cost of all rounds, pico-nats by order.
        epsilon_nano: stand-alone RDP ε of the job at the budget's δ, 1e-9, rounded up.
        size: the model's exact size.
        compute: bound on the work, from public numbers only.
    """

    request: JobRequest
    plan: TrainingPlan
    price: Price
    cost: tuple[int, ...]
    epsilon_nano: int
    size: ModelSize
    compute: dict[str, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What policy, budget, quota and floors say; `code` is None where none of them refuses."""

    proposal: Proposal
    situation: Situation
    decision: Decision
    rules: tuple[Rule, ...]
    code: str | None

    @property
    def accepted(self) -> bool:
        """Whether the job would be reserved now (at once, or until people approve)."""
        return self.code is None


def propose(settings: Settings, situation: Situation, request: JobRequest) -> Proposal:
    """Plan and price a request.

    Raises:
        Refused: `unsupported`, `invalid_request`, `model_refused`, `price_disagreement` or
            `price_overflow`, naming the field.
    """
    floors.refuse_unsupported(request)
    size = _fitting_model(settings, situation, request)
    plan = plan_of(request, clients=situation.balance.clients)
    price = curve.price(plan.mechanism)
    delta = situation.balance.terms.delta_float
    epsilon = curve.standalone_epsilon(plan.mechanism, plan.charge_units, delta)
    return Proposal(
        request=request,
        plan=plan,
        price=price,
        cost=_cost(price, plan),
        epsilon_nano=_ceil_nano(epsilon),
        size=size,
        compute=_compute(situation, request, size),
    )


def judge(
    services: Services,
    principal: Principal,
    situation: Situation,
    proposal: Proposal,
    *,
    request_id: str,
    now: datetime,
) -> Judgement:
    """Ask the policy and compare with budget, quota and floors; never raises for a refusal.

    Args:
        services: engine and settings.
        principal: who asks.
        situation: facts at this moment.
        proposal: the priced request.
        request_id: names the question; the id of the job it would become.
        now: time of the request.
    """
    asked = _question(principal, situation, proposal, request_id, now)
    decision = ask.ask(
        services.engine,
        situation.revision,
        asked,
        deadline_seconds=services.settings.policy_deadline_seconds,
    )
    denials = [
        _policy_rule(denial, proposal.request, asked.document)
        for denial in decision.verdict.denials
    ]
    own = _own_rules(services.settings, situation, proposal)
    codes = {rule.code for rule in own} | {decision.code}
    code = next((code for code in PRECEDENCE if code in codes), None)
    return Judgement(proposal, situation, decision, (*denials, *own), code)


def within_means(settings: Settings, situation: Situation, proposal: Proposal) -> bool:
    """Whether everything but the policy accepts: cheap, so a search asks it first."""
    return not _own_rules(settings, situation, proposal)


def spent_nano(account: Balance | QuotaBalance, *more: tuple[int, ...]) -> int:
    """The odometer with reservations and `more`, 1e-9, rounded up."""
    spent = account.charged
    for vector in (account.reserved, *more):
        spent = budget_filter.add(spent, vector)
    return budget_filter.epsilon_spent_nano(terms_of(account), spent)


def left_nano(account: Balance | QuotaBalance) -> int:
    """ε minus the odometer with reservations, 1e-9, rounded down, never below 0."""
    return max(0, terms_of(account).epsilon_nano - spent_nano(account))


def terms_of(account: Balance | QuotaBalance) -> Terms:
    """The terms of a budget or of a share that is set."""
    if account.terms is None:
        raise ValueError("a researcher without a quota has no terms")
    return account.terms


def _own_rules(settings: Settings, situation: Situation, proposal: Proposal) -> list[Rule]:
    """What budget, quota, freeze and floors object to."""
    balance = situation.balance
    fired: list[Rule] = []
    if balance.frozen or situation.dataset.frozen:
        what = "population" if balance.frozen else "dataset"
        message = f"the {what} is frozen by its owner"
        fired.append(Rule(code="frozen", field="dataset", message=message))
    if not situation.budget_admits(proposal.cost):
        fired.append(_room_rule("budget_exceeded", "budget.epsilon", balance, proposal.cost))
    if situation.share is not None and not situation.share_admits(proposal.cost):
        fired.append(_room_rule("quota_exceeded", "budget.quota", situation.share, proposal.cost))
    fired += floors.rules(
        settings,
        proposal.request,
        clients=situation.balance.clients,
        delta=balance.terms.delta_float,
        flops_per_round=proposal.compute["flops"] // proposal.request.rounds,
    )
    return fired


def _room_rule(
    code: str, field: str, account: Balance | QuotaBalance, cost: tuple[int, ...]
) -> Rule:
    """The rule of a budget or quota without room, in ε."""
    limit = terms_of(account).epsilon
    left = left_nano(account) / NANO
    after = spent_nano(account, cost) / NANO
    message = f"would bring the ε spent to {after:.6g} of {limit:g}; {left:.6g} is left"
    return Rule(code=code, field=field, message=message, value=after, limit=limit)


def _policy_rule(denial: Denial, request: JobRequest, document: Any) -> Rule:
    """An owner's denial with the value that the policy saw at its field."""
    field = denial.field.removeprefix("input.")
    found = [_at(source, field) for source in (request.model_dump(), document)]
    return Rule(
        code=denial.code,
        field=denial.field,
        message=denial.message,
        value=next((_scalar(value) for value in found if value is not None), None),
        limit=_scalar(denial.limit),
    )


def _at(document: Any, field: str) -> Any:
    """The member that a dotted field names, or None."""
    for name in field.split("."):
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _scalar(value: Limit | Any) -> int | float | str | None:
    """A printable fact; lists become text."""
    if isinstance(value, tuple | list):
        return ", ".join(str(member) for member in value)
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float | str) else None


def _fitting_model(settings: Settings, situation: Situation, request: JobRequest) -> ModelSize:
    """The model's size, once it is known to fit the data set and the limits."""
    spec = request.model.architecture
    size = modelspec.measure(spec, limits=floors.model_limits(settings))
    dataset = situation.dataset
    modelspec.check_fit(
        spec,
        loss=request.loss,
        feature_shape=tuple(dataset.feature_shape),
        feature_dtype=dataset.feature_dtype,
        classes=dataset.classes,
    )
    return size


def _cost(price: Price, plan: TrainingPlan) -> tuple[int, ...]:
    """The price of all rounds; one that cannot be stored is laid at the fields that make it."""
    try:
        return price.total(plan.charge_units)
    except Refused as refused:
        faults = [
            FieldError(
                "noise_multiplier", "is too small for so many rounds", plan.noise_multiplier
            ),
            FieldError("rounds", "are too many at so little noise", plan.rounds),
        ]
        raise Refused(refused.code, refused.detail, errors=faults) from refused


def _compute(situation: Situation, request: JobRequest, size: ModelSize) -> dict[str, int]:
    """Upper bound on the work: every client at the public cap of examples."""
    examples = int(situation.dataset.manifest.get("examples_per_client", 1))
    updates = request.rounds * request.clients_per_round
    epochs = request.algorithm.local_epochs
    flops = updates * examples * epochs * TRAINING_PASSES * size.flops
    return {
        "parameters": size.parameters,
        "client_updates": updates,
        "flops": flops,
        "cpu_seconds_estimate": -(-flops // FLOPS_PER_CPU_SECOND),
    }


def _question(
    principal: Principal,
    situation: Situation,
    proposal: Proposal,
    request_id: str,
    now: datetime,
) -> Question:
    """Everything the owner's rules may know."""
    dataset, revision = situation.dataset, situation.revision
    return question.build(
        request_id=request_id,
        kind=proposal.request.kind,
        at=now,
        subject=question.SubjectFacts(principal.id, (principal.role,), principal.organisation),
        dataset=question.DatasetFacts(
            id=dataset.id,
            population=situation.balance.population_id,
            clients=situation.balance.clients,
            privacy_unit=situation.balance.privacy_unit,
            tags=tuple(dataset.tags),
        ),
        job=_job_facts(proposal),
        cost=_cost_facts(situation, proposal),
        budget=_budget_facts(situation),
        history=question.HistoryFacts(
            jobs_by_subject=situation.history.jobs,
            charged_epsilon_nano_by_subject=situation.history.charged_nano,
            last_job_time=situation.history.last_job_at,
        ),
        policy_id=revision.id,
        policy_version=revision.number,
    )


def _job_facts(proposal: Proposal) -> question.JobFacts:
    request, spec = proposal.request, proposal.request.model.architecture
    return question.JobFacts(
        algorithm=request.algorithm.name,
        purpose=request.purpose,
        rounds=request.rounds,
        clients_per_round=request.clients_per_round,
        noise_multiplier=request.noise_multiplier,
        clip_norm=request.algorithm.clip_norm,
        local_epochs=request.algorithm.local_epochs,
        outputs=_distinct(request.outputs),
        model=question.ModelFacts(
            fingerprint=spec.fingerprint,
            layers=tuple(layer.type for layer in spec.layers),
            parameters=proposal.size.parameters,
        ),
    )


def _cost_facts(situation: Situation, proposal: Proposal) -> question.CostFacts:
    compute = proposal.compute
    return question.CostFacts(
        accountant=curve.ENGINE,
        delta=situation.balance.terms.delta_float,
        epsilon_nano=proposal.epsilon_nano,
        budget_epsilon_nano_before=spent_nano(situation.balance),
        budget_epsilon_nano_after=spent_nano(situation.balance, proposal.cost),
        compute=question.ComputeFacts(compute["client_updates"], compute["cpu_seconds_estimate"]),
    )


def _budget_facts(situation: Situation) -> question.BudgetFacts:
    balance, share = situation.balance, situation.share
    charged_only = budget_filter.epsilon_spent_nano(balance.terms, balance.charged)
    return question.BudgetFacts(
        epsilon_nano=balance.terms.epsilon_nano,
        remaining_epsilon_nano=left_nano(balance),
        reserved_epsilon_nano=spent_nano(balance) - charged_only,
        quota=None
        if share is None
        else question.QuotaFacts(terms_of(share).epsilon_nano, left_nano(share)),
    )


def _distinct(outputs: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(outputs)))


def _ceil_nano(epsilon: float) -> int:
    """ε in units of 1e-9, exact, rounded up."""
    return -int(-Fraction(epsilon) * NANO // 1)
