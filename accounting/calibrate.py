"""Inverse questions: most rounds, least noise, largest cohort, how many more jobs.

Every answer is rounded towards privacy and proven before it is given: the answer is admitted by
the filter at the authoritative price, one step further is refused. The search itself runs on the
fast engine. Answers must never be used for admission; that is the ledger's decision alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from accounting import filter as admission
from accounting.curve import Price, price
from accounting.mechanism import MAX_NOISE, MAX_ROUNDS, MIN_NOISE, Mechanism
from accounting.plan import CLIP_COUNT_NOISE_PER_CLIENT, TrainingPlan
from privacy_gateway import rdp
from privacy_gateway.errors import Refused

# Noise multipliers are answered on a grid of 1e-4; a finer one would be noise of its own.
NOISE_STEPS_PER_UNIT: Final = 10_000
# As many more jobs as anybody is told of.
MOST_JOBS: Final = 1_000_000_000


class Account(Protocol):
    """Anything with limits and spending: a population's balance, or a researcher's quota."""

    @property
    def limits(self) -> tuple[int, ...]: ...
    @property
    def charged(self) -> tuple[int, ...]: ...
    @property
    def reserved(self) -> tuple[int, ...]: ...


Shares = Account | Sequence[Account] | None
"""A quota besides the budget, several of them, or none."""


def admits(account: Account, mechanism: Mechanism, units: int, *, quota: Shares = None) -> bool:
    """Whether `units` of the mechanism would be admitted now; False for a refused price."""
    try:
        cost = price(mechanism).total(units)
    except Refused:
        return False
    return all(_fits(part, cost) for part in _parts(account, quota))


def max_rounds(account: Account, mechanism: Mechanism, *, quota: Shares = None) -> int:
    """Most charge units that fit, closed form; 0 when not even one does."""
    per_round = price(mechanism).per_round
    most = min(
        MAX_ROUNDS,
        rdp.INT64_MAX // max(1, *per_round),
        *(_most(part, per_round) for part in _parts(account, quota)),
    )
    return max(0, most)


def most_rounds(account: Account, plan: TrainingPlan, *, quota: Shares = None) -> int:
    """Most rounds of a plan that fit; 0 when not even the shortest such plan does.

    Where the noise of a round is its own this is `max_rounds`; a tree or banded matrix is charged
    whole, so the rounds are searched for.
    """
    if not plan.mechanism.whole:
        return max_rounds(account, plan.mechanism, quota=quota)

    # Bisection looks for the least true value, so the rounds are counted down.
    def fewer(step: int) -> TrainingPlan:
        return plan.changed(rounds=MAX_ROUNDS - step)

    found = _searched(account, quota, fewer, 0, MAX_ROUNDS - (plan.bands or 1))
    return 0 if found is None else MAX_ROUNDS - found


def how_many_more(account: Account, cost: Price, rounds: int, *, quota: Shares = None) -> int:
    """How many more jobs of `rounds` charge units at this price fit; 0 when none."""
    try:
        total = cost.total(rounds)
    except Refused:
        return 0
    return min(_most(part, total) for part in _parts(account, quota))


def min_noise(
    account: Account,
    plan: TrainingPlan,
    *,
    quota: Shares = None,
    least: float = MIN_NOISE,
) -> float | None:
    """Least noise multiplier, on a grid of 1e-4, at which the plan is admitted.

    Args:
        account: the budget.
        plan: everything but the noise.
        quota: the shares of researcher and project, where they are set.
        least: floor below which no answer is given.

    Returns:
        The noise multiplier, or None when no allowed noise is enough.
    """
    low = -(-round(least * 10**9) // (10**9 // NOISE_STEPS_PER_UNIT))
    ceiling = MAX_NOISE
    if plan.clip_count_noise is not None:
        ceiling = min(ceiling, 2.0 * plan.clip_count_noise)
    high = int(ceiling * NOISE_STEPS_PER_UNIT)
    if plan.clip_count_noise is not None:
        high -= 1
    found = _searched(account, quota, lambda step: _at_noise(plan, step), low, high)
    return None if found is None else found / NOISE_STEPS_PER_UNIT


def max_cohort(account: Account, plan: TrainingPlan, *, quota: Shares = None) -> int | None:
    """Largest expected cohort at which the plan is admitted, or None when not even one client.

    Without sampling (and for trees) the cohort is no free number: the plan's own or None.
    """
    if plan.sampling == "none":
        fits = _proven(account, quota, lambda: plan)
        return plan.clients_per_round if fits else None
    clients = plan.population_clients

    # Bisection looks for the least true value, so the cohort is counted down from N.
    def smaller(step: int) -> TrainingPlan:
        return plan.changed(clients_per_round=clients - step)

    found = _searched(account, quota, smaller, 0, clients - _least_cohort(plan))
    return None if found is None else clients - found


def _least_cohort(plan: TrainingPlan) -> int:
    """Adaptive clipping needs z < 2 σ_b, and σ_b grows with the cohort."""
    if plan.clip_count_noise is None:
        return 1
    return math.floor(plan.noise_multiplier / (2.0 * CLIP_COUNT_NOISE_PER_CLIENT)) + 1


def _at_noise(plan: TrainingPlan, step: int) -> TrainingPlan:
    return plan.changed(noise_multiplier=step / NOISE_STEPS_PER_UNIT)


def _searched(
    account: Account, quota: Shares, make: Callable[[int], TrainingPlan], low: int, high: int
) -> int | None:
    """Least step from `low` to `high` whose plan is admitted, that of the one before being not."""
    return _least(
        lambda step: _quick(account, quota, lambda: make(step)),
        lambda step: low <= step <= high and _proven(account, quota, lambda: make(step)),
        low,
        high,
    )


def _least(
    quick: Callable[[int], bool], proven: Callable[[int], bool], low: int, high: int
) -> int | None:
    """Least step that is proven while the one before it is not; both predicates are monotone."""
    if low > high or not quick(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if quick(middle):
            high = middle
        else:
            low = middle + 1
    # The engines differ in the last digits, so the answer may lie one step beside.
    if not proven(low):
        return low + 1 if proven(low + 1) else None
    while proven(low - 1):
        low -= 1
    return low


def _quick(account: Account, quota: Shares, make: Callable[[], TrainingPlan]) -> bool:
    """The independent engine alone, at the orders that have room; a refused plan does not fit."""
    try:
        plan = make()
    except Refused:
        return False
    mechanism, units = plan.mechanism.canonical(), plan.charge_units
    return all(_quick_fits(_room(part), mechanism, units) for part in _parts(account, quota))


def _quick_fits(room: Sequence[int], mechanism: dict[str, object], units: int) -> bool:
    open_orders = [i for i, left in enumerate(room) if left > 0]
    values = rdp.curve(mechanism, [rdp.ORDERS[i] for i in open_orders])
    return any(
        value * units * rdp.PICO <= room[i] for i, value in zip(open_orders, values, strict=True)
    )


def _proven(account: Account, quota: Shares, make: Callable[[], TrainingPlan]) -> bool:
    try:
        plan = make()
    except Refused:
        return False
    return admits(account, plan.mechanism, plan.charge_units, quota=quota)


def _parts(account: Account, quota: Shares) -> tuple[Account, ...]:
    """Everything that has to have room."""
    if quota is None:
        return (account,)
    return (account, *quota) if isinstance(quota, Sequence) else (account, quota)


def _fits(account: Account, cost: Sequence[int]) -> bool:
    return admission.admits(account.limits, account.charged, account.reserved, cost)


def _room(account: Account) -> tuple[int, ...]:
    return admission.room(account.limits, account.charged, account.reserved)


def _most(account: Account, cost: Sequence[int]) -> int:
    """Largest multiple of `cost` that some order can take; what is free is bounded all the same."""
    return max(
        left // part if part else MOST_JOBS for left, part in zip(_room(account), cost, strict=True)
    )
