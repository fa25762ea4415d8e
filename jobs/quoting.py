"""A quote: admission without the commit, equal to the later charge to the last unit.

It runs the same `propose` and `judge` as `jobs.admission` on a plain read, so price and verdict
are those of a submit at the same moment. A quote must never write, not even a log of having been
asked: asking is free.
"""

from __future__ import annotations

from typing import Any, Literal

from accounting import calibrate, curve
from jobs import counter, initial, judgement, runnable, situation
from jobs.judgement import Judgement, Proposal
from jobs.principal import Principal
from jobs.services import Services
from jobs.situation import Situation, spent_nano
from privacy_gateway import rdp
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import JobRequest, Quote


def quote(
    services: Services,
    principal: Principal,
    request: JobRequest,
    *,
    pld: bool = False,
    counter_offer: bool = True,
) -> Quote:
    """Price and verdict of a request, without side effect.

    Args:
        services: the outside world.
        principal: who asks; quota, history and policy depend on it.
        request: the job.
        pld: also compute the ε by privacy loss distributions, which may take a second.
        counter_offer: search for the nearest request that would pass, where this one would not.

    Raises:
        Refused: `not_found`, `forbidden`, `invalid_request`, `model_refused` and price refusals.
            What policy, budget, quota and floors refuse, and what no worker can run, is part of
            the quote.
    """
    principal.require("researcher", "owner")
    with services.database.read() as session:
        known = situation.read(session, principal, request.dataset, project=request.project)
        initial.refuse_unknown(session, principal, request)
    return answer(services, principal, known, request, pld=pld, counter_offer=counter_offer)


def answer(
    services: Services,
    principal: Principal,
    known: Situation,
    request: JobRequest,
    *,
    pld: bool = False,
    counter_offer: bool = True,
) -> Quote:
    """The quote of a request against facts that were read before; see `quote`."""
    proposal = judgement.propose(services.settings, known, request)
    judged = judgement.judge(
        services,
        principal,
        known,
        proposal,
        request_id=services.new_id("quo"),
        now=services.clock(),
    )
    unrunnable = runnable.rules(request)
    wanted = counter_offer and not judged.accepted and not unrunnable
    balance, terms = known.balance, known.balance.terms
    return Quote(
        mechanism=_mechanism(proposal),
        epsilon=proposal.epsilon_nano / NANO,
        epsilon_pld=_by_pld(proposal, terms.delta_float) if pld else None,
        delta=terms.delta_float,
        budget_epsilon=terms.epsilon,
        budget_before=spent_nano(balance) / NANO,
        budget_after=spent_nano(balance, proposal.cost) / NANO,
        fits=known.admits(proposal.cost),
        verdict="deny" if unrunnable else _verdict(judged),
        refusals=[*unrunnable, *judged.rules],
        counter_offer=counter.offer(services, principal, judged) if wanted else None,
        how_many_more=calibrate.how_many_more(
            balance, proposal.price, proposal.plan.charge_units, quota=known.shares
        ),
        compute=dict(proposal.compute),
    )


def _mechanism(proposal: Proposal) -> dict[str, Any]:
    """What is charged for, in the ledger's own form, with its event and cost."""
    mechanism = proposal.plan.mechanism
    form = mechanism.canonical()
    return {
        **form,
        "digest": proposal.price.mechanism_digest,
        "event": rdp.event_text(form),
        "rounds": proposal.request.rounds,
        "orders": list(rdp.ORDERS),
        "cost_pico_nats": list(proposal.cost),
    }


def _by_pld(proposal: Proposal, delta: float) -> float | None:
    return curve.standalone_epsilon_pld(proposal.plan.mechanism, proposal.plan.charge_units, delta)


def _verdict(judged: Judgement) -> Literal["allow", "needs_approval", "deny"]:
    """What a submit would meet: any rule denies."""
    return judged.decision.verdict.outcome if judged.accepted else "deny"
