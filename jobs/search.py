"""How far one number of a request must move until policy and budget both accept.

A knob is walked in whole steps towards privacy: more noise on a grid of 1e-4, fewer rounds, a
smaller cohort. The accountant's inverse gives the first step that the budget admits; the policy is
then asked there and, if it refuses, at steps further on. Every answer was accepted by the very
judgement an admission makes; nothing is extrapolated. This module must never reserve anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from accounting import calibrate
from accounting.calibrate import NOISE_STEPS_PER_UNIT
from accounting.mechanism import MAX_NOISE
from jobs import judgement
from jobs.judgement import Judgement
from jobs.principal import Principal
from jobs.proposal import plan_for
from jobs.services import Services
from jobs.situation import Situation
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest, Rule

Knob = Literal["noise_multiplier", "rounds", "clients_per_round"]
KNOBS: tuple[Knob, ...] = ("noise_multiplier", "rounds", "clients_per_round")

_MOVED_BY_PRICE = ("cost", "budget", "derived", "epsilon")

# Walking on from a refused step, each stride is longer than the last by this factor.
STRIDE_GROWTH = 2
MOST_QUESTIONS = 48

Accept = Callable[[JobRequest], Judgement | None]


@dataclass(frozen=True, slots=True)
class Field:
    """The ground a search walks on: one caller, one moment, one state of budget and policy."""

    services: Services
    principal: Principal
    situation: Situation
    now: datetime

    def accepted(self, request: JobRequest) -> Judgement | None:
        """The judgement of a request that would be reserved now, else None."""
        judged = self.judged(request)
        return judged if judged is not None and judged.accepted else None

    def judged(self, request: JobRequest) -> Judgement | None:
        """The judgement of a request; None where it has no price or does not fit the data set."""
        settings = self.services.settings
        try:
            proposal = judgement.propose(settings, self.situation, request)
        except Refused:
            return None
        return judgement.judge(
            self.services,
            self.principal,
            self.situation,
            proposal,
            request_id=self.services.new_id("try"),
            now=self.now,
        )


def turned(request: JobRequest, knob: Knob, value: float) -> JobRequest:
    """The same request with one number moved."""
    return request.model_copy(update={knob: float(value) if knob == "noise_multiplier" else value})


def can_be_met(rule: Rule) -> bool:
    """Whether turning a knob can satisfy the rule at all: a price can move, a purpose cannot."""
    parts = rule.field.removeprefix("input.").split(".")
    return parts[-1] in KNOBS or any(part.startswith(_MOVED_BY_PRICE) for part in parts)


def least_change(field: Field, request: JobRequest, knob: Knob) -> Judgement | None:
    """Move one knob towards privacy, as little as it takes; None when no step is accepted.

    The request itself is the answer when it is accepted as it stands.
    """
    start = _first_affordable(field, request, knob)
    if start is None:
        return None
    here = field.judged(turned(request, knob, _value(knob, start)))
    if here is None or not all(can_be_met(rule) for rule in here.rules):
        return None
    return here if here.accepted else _walk_on(field, request, knob, start)


def _walk_on(field: Field, request: JobRequest, knob: Knob, refused: int) -> Judgement | None:
    """Stride away from a refused step until one is accepted, then close in on the border."""
    last = _last_step(knob)
    stride = max(1, abs(refused) // 8) if knob == "noise_multiplier" else 1
    found: tuple[int, Judgement] | None = None
    for _ in range(MOST_QUESTIONS):
        if refused >= last or found is not None:
            break
        step = min(refused + stride, last)
        judged = field.accepted(turned(request, knob, _value(knob, step)))
        if judged is not None:
            found = (step, judged)
        else:
            refused, stride = step, stride * STRIDE_GROWTH
    return None if found is None else _close_in(field, request, knob, refused, *found)


def _close_in(
    field: Field, request: JobRequest, knob: Knob, refused: int, step: int, judged: Judgement
) -> Judgement:
    """Halve the gap between a refused and an accepted step until they are neighbours."""
    while step - refused > 1:
        middle = (step + refused) // 2
        better = field.accepted(turned(request, knob, _value(knob, middle)))
        if better is None:
            refused = middle
        else:
            step, judged = middle, better
    return judged


def _first_affordable(field: Field, request: JobRequest, knob: Knob) -> int | None:
    """The first step, from the request's own towards privacy, that budget and quota admit."""
    account, quota = field.situation.balance, field.situation.shares
    try:
        facts = field.situation
        plan = plan_for(request, facts.dataset, clients=facts.balance.clients)
    except Refused:
        return None
    if knob == "noise_multiplier":
        noise = calibrate.min_noise(account, plan, quota=quota, least=request.noise_multiplier)
        return None if noise is None else round(noise * NOISE_STEPS_PER_UNIT)
    if knob == "rounds":
        most = min(request.rounds, calibrate.most_rounds(account, plan, quota=quota))
        return -most if most >= 1 else None
    if plan.sampling == "none":
        return None
    cohort = calibrate.max_cohort(account, plan, quota=quota)
    return None if cohort is None else -min(cohort, request.clients_per_round)


def _value(knob: Knob, step: int) -> int | float:
    """The number at a step; steps rise with privacy."""
    return step / NOISE_STEPS_PER_UNIT if knob == "noise_multiplier" else -step


def _last_step(knob: Knob) -> int:
    """The most private step there is."""
    return int(MAX_NOISE * NOISE_STEPS_PER_UNIT) if knob == "noise_multiplier" else -1
