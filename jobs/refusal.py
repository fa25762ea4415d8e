"""Words and facts of a refused job: what fired, what it would cost, what is left, what would pass.

Everything in a refusal follows from the request, the owner's rules and the ledger; it must never
depend on raw data. The same rules appear in a quote, so a refusal is never a surprise.
"""

from __future__ import annotations

from typing import Any

from jobs.judgement import Judgement
from jobs.situation import left_nano, spent_nano, terms_of
from privacy_gateway.errors import CODES, FieldError, Refused
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import CounterOffer


def refusal_of(judged: Judgement, *, decision_id: str, offer: CounterOffer | None) -> Refused:
    """The typed refusal of a judgement that was recorded.

    Args:
        judged: a judgement that is not accepted.
        decision_id: where the decision was recorded.
        offer: the nearest request that would pass now.
    """
    if judged.code is None:
        raise ValueError("an accepted judgement is no refusal")
    return Refused(
        judged.code,
        _sentence(judged),
        errors=[
            FieldError(rule.field or "job", rule.message or rule.code, rule.value, rule.limit)
            for rule in judged.rules
        ],
        rules=[rule.model_dump(mode="json", exclude_none=True) for rule in judged.rules],
        price=price_facts(judged),
        left=left_facts(judged),
        counter_offer=None if offer is None else offer.model_dump(mode="json"),
        decision=decision_id,
    )


def price_facts(judged: Judgement) -> dict[str, Any]:
    """What the job would cost, alone and on top of what is spent."""
    proposal, balance = judged.proposal, judged.situation.balance
    return {
        "epsilon": proposal.epsilon_nano / NANO,
        "delta": balance.terms.delta_float,
        "rounds": proposal.request.rounds,
        "budget_after": spent_nano(balance, proposal.cost) / NANO,
    }


def left_facts(judged: Judgement) -> dict[str, float]:
    """What the budget, and the researcher's share of it, still holds."""
    balance, share = judged.situation.balance, judged.situation.share
    facts = {
        "epsilon": balance.terms.epsilon,
        "epsilon_spent": spent_nano(balance) / NANO,
        "epsilon_remaining": left_nano(balance) / NANO,
    }
    if share is not None:
        facts["quota_epsilon"] = terms_of(share).epsilon
        facts["quota_epsilon_remaining"] = left_nano(share) / NANO
    project = judged.situation.project
    if project is not None:
        facts["project_quota_epsilon"] = terms_of(project).epsilon
        facts["project_quota_epsilon_remaining"] = left_nano(project) / NANO
    return facts


def _sentence(judged: Judgement) -> str:
    """The code's own sentence, then what fired; a freeze says in its rule what is frozen."""
    fired = "; ".join(dict.fromkeys(rule.message or rule.code for rule in judged.rules))
    if judged.code == "frozen" and fired:
        return fired[0].upper() + fired[1:]
    return f"{CODES[judged.code or 'policy_error']} {fired}".strip()
