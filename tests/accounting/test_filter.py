"""The weighted filter: reference sequences, capacity, the counterexample, and its laws."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import filter as admission
from accounting.budget import single_job_limits, terms_of
from accounting.curve import price
from privacy_gateway import rdp, replay
from privacy_gateway.errors import Refused
from tests.accounting.support import VECTORS, poisson

vectors = st.tuples(*[st.integers(0, 10**13)] * 16)
epsilons = st.floats(0.2, 50.0).map(lambda value: round(value * rdp.NANO))
deltas = st.sampled_from([1e-3, 1e-4, 1e-5, 1e-6, 3e-8, 1e-12])


@pytest.mark.parametrize("case", VECTORS["filter_sequences"], ids=lambda case: case["id"])
def test_reference_sequences(case: dict[str, Any]) -> None:
    budget = case["budget"]
    terms = terms_of(round(budget["epsilon"] * rdp.NANO), budget["delta"])
    for weight, expected in zip(terms.weights, budget["weights"], strict=True):
        assert weight / rdp.FEMTO == pytest.approx(expected, abs=1e-12)
    for limit, expected in zip(terms.limits, budget["limits"], strict=True):
        assert limit / rdp.PICO == pytest.approx(expected, abs=1e-8)
    charged = reserved = admission.zero()
    jobs: dict[str, tuple[tuple[int, ...], int]] = {}
    for event in case["events"]:
        if event["op"] == "reserve":
            cost = price(poisson(event["q"], event["z"]))
            new = cost.total(event["T"])
            fits = admission.admits(terms.limits, charged, reserved, new)
            assert fits == (event["expect"] == "allow")
            margin = admission.margin(terms.limits, charged, reserved, new)
            # The reference cuts its margins off at −1 where the leading order is disabled.
            assert margin == pytest.approx(event["margin"], abs=1e-5) or event["margin"] == -1
            if fits:
                reserved = admission.add(reserved, new)
                jobs[event["job"]] = (cost.per_round, event["T"])
        else:
            per_round, rounds = jobs.pop(event["job"])
            done = event["rounds_done"]
            reserved = admission.subtract(reserved, tuple(part * rounds for part in per_round))
            charged = admission.add(charged, tuple(part * done for part in per_round))
        # The reference reports the full-δ reading; the odometer, with shares of δ, lies above it.
        full = single_job_limits(terms.epsilon_nano, budget["delta"])
        spent = rdp.epsilon_spent(terms.epsilon_nano, full, charged)
        assert spent / rdp.NANO == pytest.approx(event["reported_epsilon_charged"], abs=2e-6)
        assert spent <= admission.epsilon_spent_nano(terms, charged)


@pytest.mark.parametrize(
    ("q", "noise", "rounds", "epsilon", "delta", "jobs"),
    [
        (0.01, 1.0, 100, 8.0, 1e-6, 107),
        (0.0355, 1.2, 100, 8.0, 1e-5, 16),
        (0.001, 0.8, 500, 3.0, 1e-6, 152),
    ],
)
def test_capacity(
    q: float, noise: float, rounds: int, epsilon: float, delta: float, jobs: int
) -> None:
    terms = terms_of(round(epsilon * rdp.NANO), delta)
    cost = price(poisson(q, noise)).total(rounds)
    charged, admitted = admission.zero(), 0
    while admission.admits(terms.limits, charged, admission.zero(), cost):
        charged, admitted = admission.add(charged, cost), admitted + 1
    assert admitted >= jobs


def binary_cost(p: float, gap: float, orders: tuple[float, ...]) -> tuple[int, ...]:
    """Divergence of P = (p, 1 − p) from Q = (p e^−L, 1 − p e^−L)."""
    small = p * math.exp(-gap)
    return tuple(
        rdp.ceil_pico(
            math.log(p**a * small ** (1 - a) + (1 - p) ** a * (1 - small) ** (1 - a)) / (a - 1)
        )
        for a in orders
    )


def test_the_adaptive_counterexample_is_refused_at_its_second_step() -> None:
    case = VECTORS["counterexample"]
    orders = tuple(float(order) for order in case["orders"])
    epsilon_nano = round(case["epsilon"] * rdp.NANO)
    first = binary_cost(case["stage1"]["p"], case["stage1"]["L"], orders)
    branches = [
        binary_cost(case[name]["p"], case[name]["L"], orders)
        for name in ("branch_high", "branch_low")
    ]
    naive = single_job_limits(epsilon_nano, case["delta"], orders)
    for limit, (_, expected) in zip(naive, case["limits_at_full_delta"].items(), strict=True):
        assert limit / rdp.PICO == pytest.approx(expected, abs=1e-9)
    slack = (100,) * len(orders)
    assert all(
        admission.admits(admission.add(naive, slack), first, (0, 0), branch) for branch in branches
    ), "the naive rule accepts both branches"
    terms = terms_of(epsilon_nano, case["delta"], orders=orders)
    assert admission.admits(terms.limits, (0, 0), (0, 0), first)
    assert not any(admission.admits(terms.limits, first, (0, 0), branch) for branch in branches)


@given(epsilon=epsilons, delta=deltas)
def test_the_shares_of_delta_never_exceed_delta(epsilon: int, delta: float) -> None:
    try:
        terms = terms_of(epsilon, delta)
    except Refused:
        return
    spent = sum(
        math.exp((a - 1) * (limit / rdp.PICO - terms.epsilon + math.log1p(-1 / a))) / a
        for a, limit in zip(terms.orders, terms.limits, strict=True)
        if limit >= 0
    )
    assert spent <= delta * (1 + 1e-9)
    assert sum(terms.weights) <= rdp.FEMTO


@given(charged=vectors, reserved=vectors, new=vectors, more=vectors, epsilon=epsilons)
def test_admission_is_monotone_and_indifferent_to_order(
    charged: Any, reserved: Any, new: Any, more: Any, epsilon: int
) -> None:
    limits = terms_of(epsilon + rdp.NANO, 1e-5).limits
    admitted = admission.admits(limits, charged, reserved, new)
    assert admitted == admission.admits(limits, reserved, new, charged)
    verifier = replay._fits(limits, charged, admission.add(reserved, new))
    assert admitted == verifier, "server and verifier agree"
    if admission.admits(limits, admission.add(charged, more), reserved, new):
        assert admitted


@given(spent=vectors, more=vectors, epsilon=epsilons)
def test_the_odometer_never_falls_and_says_what_the_filter_says(
    spent: Any, more: Any, epsilon: int
) -> None:
    terms = terms_of(epsilon + rdp.NANO, 1e-5)
    before = admission.epsilon_spent_nano(terms, spent)
    after = admission.epsilon_spent_nano(terms, admission.add(spent, more))
    assert before <= after
    inside = admission.admits(terms.limits, spent, admission.zero(), admission.zero())
    assert inside == (before <= terms.epsilon_nano)
    remaining = admission.epsilon_remaining_nano(terms, spent)
    assert remaining == max(0, terms.epsilon_nano - before)


def test_an_untouched_budget_has_spent_nothing() -> None:
    terms = terms_of(8 * rdp.NANO, 1e-6)
    assert admission.epsilon_spent_nano(terms, admission.zero()) == 0


def test_a_disabled_order_never_admits() -> None:
    limits = (-1,) * 16
    assert not admission.admits(limits, admission.zero(), admission.zero(), admission.zero())
    assert admission.margin(limits, admission.zero(), admission.zero(), admission.zero()) == -1.0


@given(epsilon=epsilons, raised=st.integers(1, 10 * rdp.NANO))
def test_a_grant_shifts_every_limit_by_itself(epsilon: int, raised: int) -> None:
    terms = terms_of(epsilon + rdp.NANO, 1e-5)
    more = terms.raised(raised)
    for old, new in zip(terms.limits, more.limits, strict=True):
        assert new - old == raised * 1000
    assert (more.weights, more.delta) == (terms.weights, terms.delta)


def test_sums_beyond_64_bits_and_below_zero_are_errors() -> None:
    top = (rdp.INT64_MAX,) * 16
    with pytest.raises(Refused) as refusal:
        admission.add(top, (1,) * 16)
    assert refusal.value.code == "price_overflow"
    with pytest.raises(ArithmeticError):
        admission.subtract(admission.zero(), (1,) * 16)
    with pytest.raises(Refused):
        terms_of(8 * rdp.NANO, 1e-5).raised(10**4 * rdp.NANO)
