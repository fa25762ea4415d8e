"""The quote of a sweep: each member after those before it, without side effect.

What a submit of the same members would reserve one after the other is added up in memory: to the
budget, to the shares, and to the researcher's history. This module must never write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from accounting import filter as budget_filter
from accounting import ledger
from accounting.ledger import Balance, QuotaBalance
from jobs import initial, quoting, situation
from jobs.principal import Principal
from jobs.services import Services
from jobs.situation import Situation, charged_nano, spent_nano
from jobs.sweeps import member_refusal
from privacy_gateway.errors import Refused
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import JobRequest, Quote, SweepBudget, SweepQuote

Vector = tuple[int, ...]


def quote(services: Services, principal: Principal, requests: Sequence[JobRequest]) -> SweepQuote:
    """Price and verdict of several runs together.

    Raises:
        Refused: what `jobs.quoting.quote` raises, fields below `jobs[i]`.
    """
    principal.require("researcher", "owner")
    quotes: list[Quote] = []
    before: list[tuple[Situation, JobRequest, Vector]] = []
    for place, request in enumerate(requests):
        try:
            known = _after(services, principal, request, before)
            made = quoting.answer(services, principal, known, request, counter_offer=False)
        except Refused as refused:
            raise member_refusal(refused, place) from refused
        quotes.append(made)
        before.append((known, request, tuple(made.mechanism["cost_pico_nats"])))
    refused_members = [place for place, made in enumerate(quotes) if made.verdict == "deny"]
    return SweepQuote(
        quotes=quotes,
        fits=all(made.fits for made in quotes),
        verdict=_verdict(quotes),
        refused=refused_members,
        budgets=_budgets(before),
    )


def _verdict(quotes: Sequence[Quote]) -> Literal["allow", "needs_approval", "deny"]:
    """The strictest of all."""
    said = {made.verdict for made in quotes}
    if "deny" in said:
        return "deny"
    return "needs_approval" if "needs_approval" in said else "allow"


def _after(
    services: Services,
    principal: Principal,
    request: JobRequest,
    before: Sequence[tuple[Situation, JobRequest, Vector]],
) -> Situation:
    """The facts for one member, as those before it would leave them."""
    with services.database.read() as session:
        known = situation.read(session, principal, request.dataset, project=request.project)
        initial.refuse_unknown(session, principal, request)
        own = ledger.quota(session, known.balance.population_id, principal.id)
    mine = [
        (there, asked, cost)
        for there, asked, cost in before
        if there.balance.population_id == known.balance.population_id
    ]
    spent = budget_filter.add(own.charged, own.reserved)
    balance, share, project = known.balance, known.share, known.project
    for there, asked, cost in mine:
        spent = budget_filter.add(spent, cost)
        share = None if share is None else _held(share, cost)
        if project is not None and asked.project == request.project:
            project = _held(project, cost)
        # Other blocks' people have nothing to do with it.
        theirs, ours = situation.block_of(there.dataset), situation.block_of(known.dataset)
        if theirs is None or ours is None or theirs == ours:
            balance = _reserved(balance, cost)
    history = replace(
        known.history,
        jobs=known.history.jobs + len(mine),
        charged_nano=charged_nano(balance, spent),
        last_job_at=services.clock() if mine else known.history.last_job_at,
    )
    return replace(known, balance=balance, share=share, project=project, history=history)


def _reserved(balance: Balance, cost: Vector) -> Balance:
    return replace(balance, reserved=budget_filter.add(balance.reserved, cost))


def _held(share: QuotaBalance, cost: Vector) -> QuotaBalance:
    return replace(share, reserved=budget_filter.add(share.reserved, cost))


def _budgets(members: Sequence[tuple[Situation, JobRequest, Vector]]) -> list[SweepBudget]:
    """Before the first and after the last member, by population."""
    told: dict[str, SweepBudget] = {}
    for known, _, cost in members:
        balance = known.balance
        after = spent_nano(balance, cost) / NANO
        first = told.get(balance.population_id)
        told[balance.population_id] = SweepBudget(
            population=balance.population_id,
            delta=balance.terms.delta_float,
            budget_epsilon=balance.terms.epsilon,
            budget_before=spent_nano(balance) / NANO if first is None else first.budget_before,
            budget_after=after if first is None else max(after, first.budget_after),
        )
    return list(told.values())
