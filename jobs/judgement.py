"""What policy, budget, quota and floors say together about one proposal.

It is the same function behind quote, admission, counter-offer, inverse answer and the worker's
question before each block, so none of them can differ from the others. It never raises for a
refusal, because a refusal has to be recorded, and it must never write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from accounting.ledger import Balance, QuotaBalance
from jobs import floors
from jobs.denials import rule_of
from jobs.principal import Principal
from jobs.proposal import Proposal, propose
from jobs.questions import question_again, question_of
from jobs.services import Services
from jobs.settings import Settings
from jobs.situation import Situation, left_nano, spent_nano, terms_of
from policies import ask
from policies.ask import Decision
from policies.question import Question
from policies.verdict import Obligations
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import Rule

__all__ = ["Judgement", "Proposal", "judge", "propose"]

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
# Isolations that this gateway can keep; an owner who demands another one must be told no.
ISOLATIONS = (None, "per_job", "per_client_group")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What policy, budget, quota and floors say; `code` is None where none of them refuses."""

    proposal: Proposal
    situation: Situation
    asked: Question
    decision: Decision
    rules: tuple[Rule, ...]
    code: str | None

    @property
    def accepted(self) -> bool:
        """Whether the job would be reserved now (at once, or until people approve)."""
        return self.code is None


def judge(
    services: Services,
    principal: Principal,
    situation: Situation,
    proposal: Proposal,
    *,
    request_id: str,
    now: datetime,
    asked: Question | None = None,
) -> Judgement:
    """Ask the policy and compare with budget, quota and floors; never raises for a refusal.

    Args:
        services: engine and settings.
        principal: who asks.
        situation: facts at this moment.
        proposal: the priced request.
        request_id: names the question; the id of the job it would become.
        now: time of the request.
        asked: the question, where it was built before of these very facts.
    """
    asked = asked or question_of(principal, situation, proposal, request_id, now)
    decision = ask.ask(
        services.engine,
        situation.revision,
        asked,
        deadline_seconds=services.settings.policy_deadline_seconds,
    )
    return _judged(services.settings, situation, proposal, asked, decision)


def again(
    services: Services,
    principal: Principal,
    situation: Situation,
    first: Judgement,
    *,
    request_id: str,
    now: datetime,
) -> Judgement:
    """The judgement of the same request at a later moment, as `judge` would give it.

    The owner's policy is asked anew only where its text can see what has changed since; what is
    recorded is the question of this moment in either case.
    """
    proposal = first.proposal
    if _price_moved(first.situation, situation):
        proposal = propose(services.settings, situation, proposal.request)
    if proposal is first.proposal and _same_place(first.situation, situation):
        asked = question_again(first.asked, principal, situation, proposal, request_id, now)
    else:
        asked = question_of(principal, situation, proposal, request_id, now)
    decision = ask.carried(first.decision, situation.revision, first.asked, asked)
    if decision is None:
        decision = ask.ask(
            services.engine,
            situation.revision,
            asked,
            deadline_seconds=services.settings.policy_deadline_seconds,
        )
    return _judged(services.settings, situation, proposal, asked, decision)


def _price_moved(first: Situation, second: Situation) -> bool:
    """Whether anything that plan, price or size follow from is another than before."""
    before, after = first.balance, second.balance
    return (
        first.dataset is not second.dataset
        or before.clients != after.clients
        or before.terms.delta != after.terms.delta
    )


def _same_place(first: Situation, second: Situation) -> bool:
    """Whether policy, data set and people are the same, as `questions.question_again` needs."""
    before, after = first.balance, second.balance
    return (
        first.dataset is second.dataset
        and (first.revision.id, first.revision.number)
        == (second.revision.id, second.revision.number)
        and (before.population_id, before.clients, before.privacy_unit)
        == (after.population_id, after.clients, after.privacy_unit)
        and before.terms.delta == after.terms.delta
    )


def _judged(
    settings: Settings,
    situation: Situation,
    proposal: Proposal,
    asked: Question,
    decision: Decision,
) -> Judgement:
    """Policy, budget, quota and floors together."""
    denials = [
        rule_of(denial, proposal.request, asked.document) for denial in decision.verdict.denials
    ]
    unkept = _unkept(decision.verdict.obligations)
    own = _own_rules(settings, situation, proposal)
    codes = {rule.code for rule in own} | {decision.code}
    if unkept:
        codes.add("policy_denied")
    code = next((code for code in PRECEDENCE if code in codes), None)
    return Judgement(proposal, situation, asked, decision, (*denials, *unkept, *own), code)


def _unkept(obligations: Obligations) -> list[Rule]:
    """Demands of the owner that this gateway cannot keep: then it must not run the job."""
    if obligations.isolation in ISOLATIONS:
        return []
    message = f"the policy demands the isolation {obligations.isolation}, which is not built"
    field = "policy.obligations.isolation"
    return [Rule(code="obligation_unkept", field=field, message=message)]


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
    for share in situation.shares:
        if not share.admits(proposal.cost):
            field = "budget.quota" if share.kind == "researcher" else "budget.project_quota"
            fired.append(_room_rule("quota_exceeded", field, share, proposal.cost))
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
