"""The counter-offer of a refusal: the nearest request that policy and budget accept now.

First every number is brought to the limit that a rule states for it; then one number is moved as
little as it takes: more noise, or fewer rounds, or a smaller cohort; where no single number is
enough, rounds are halved until noise can do the rest, and raised again as far as that noise
carries. Nearest is the least sum of |log ratio| to the request; the nearest in every direction are
told beside it. An offer must never be made that the judgement of an admission has not accepted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from accounting.mechanism import MAX_NOISE, MAX_ROUNDS
from jobs import situation
from jobs.judgement import Judgement
from jobs.principal import Principal
from jobs.search import KNOBS, Field, Knob, can_be_met, least_change, turned
from jobs.services import Services
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import CounterOffer, Direction, JobRequest, Rule

MOST_CORRECTIONS = 6
_NO_OFFER = frozenset({"policy_unavailable", "policy_error", "frozen"})


def offer(services: Services, principal: Principal, judged: Judgement) -> CounterOffer | None:
    """The nearest request that would be accepted now, or None when there is none.

    Args:
        services: the outside world; the budget is read afresh, without a lock.
        principal: who was refused.
        judged: the refusal.
    """
    if judged.code in _NO_OFFER or not all(can_be_met(rule) for rule in judged.rules):
        return None
    request = judged.proposal.request
    with services.database.read() as session:
        now_known = situation.read(session, principal, request.dataset, project=request.project)
    field = Field(services, principal, now_known, services.clock())
    corrected = _corrected(field, request)
    if corrected is None:
        return None
    enough = field.accepted(corrected)
    found = [enough] if enough is not None else list(_single_moves(field, corrected))
    found = found or list(_joint_move(field, corrected))
    if not found:
        return None
    found.sort(key=lambda candidate: _distance(request, candidate.proposal.request))
    return _offer_of(request, found)


def _corrected(field: Field, request: JobRequest) -> JobRequest | None:
    """Bring every number to the limit that a rule states for it; None when a rule cannot be met."""
    for _ in range(MOST_CORRECTIONS):
        judged = field.judged(request)
        if judged is None or not all(can_be_met(rule) for rule in judged.rules):
            return None
        moved = request
        for rule in judged.rules:
            moved = _obeying(moved, rule, field.situation.balance.clients)
        if moved == request:
            return request
        request = moved
    return request


def _single_moves(field: Field, request: JobRequest) -> Iterator[Judgement]:
    """One knob each, the others as they are."""
    for knob in KNOBS:
        judged = least_change(field, request, knob)
        if judged is not None:
            yield judged


def _joint_move(field: Field, request: JobRequest) -> Iterator[Judgement]:
    """Fewer rounds and more noise together: the first halving at which noise is enough."""
    rounds = request.rounds // 2
    while rounds >= 1:
        judged = least_change(field, turned(request, "rounds", rounds), "noise_multiplier")
        if judged is not None:
            noise = judged.proposal.request.noise_multiplier
            louder = turned(request, "noise_multiplier", noise)
            yield least_change(field, louder, "rounds") or judged
            return
        rounds //= 2


def _obeying(request: JobRequest, rule: Rule, clients: int) -> JobRequest:
    """The request with the rule's own number at the rule's limit."""
    limit = rule.limit
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        return request
    name = rule.field.rsplit(".", 1)[-1]
    for knob in KNOBS:
        if name == knob:
            return _turned_within(request, knob, limit, clients)
    return request


def _turned_within(request: JobRequest, knob: Knob, value: float, clients: int) -> JobRequest:
    """Turn a knob, but not beyond what a request can say; a cohort is people, so whole."""
    most = {"noise_multiplier": MAX_NOISE, "rounds": MAX_ROUNDS, "clients_per_round": clients}
    if knob == "clients_per_round" and request.sampling == "none":
        return request
    least = 0.01 if knob == "noise_multiplier" else 1
    within = min(max(value, least), most[knob])
    return turned(request, knob, within if knob == "noise_multiplier" else math.floor(within))


def _distance(request: JobRequest, other: JobRequest) -> float:
    return sum(abs(math.log(getattr(other, knob) / getattr(request, knob))) for knob in KNOBS)


def _offer_of(request: JobRequest, found: Sequence[Judgement]) -> CounterOffer:
    """The first of what was found, with one direction for each that differs."""
    directions: list[Direction] = []
    for judged in found:
        moved = {knob: getattr(judged.proposal.request, knob) for knob in KNOBS}
        changed = {knob: v for knob, v in moved.items() if v != getattr(request, knob)}
        if all(changed != other.changed for other in directions):
            epsilon = judged.proposal.epsilon_nano / NANO
            directions.append(Direction(changed=changed, epsilon=epsilon))
    nearest = directions[0]
    return CounterOffer(
        job=found[0].proposal.request.model_dump(mode="json"),
        changed=nearest.changed,
        epsilon=nearest.epsilon,
        directions=directions,
    )
