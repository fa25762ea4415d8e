"""The shortcut to the stand-alone ε gives the very number of the long way."""

from __future__ import annotations

import pytest
from dp_accounting.rdp import compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import curve, optimum
from accounting.mechanism import Mechanism
from privacy_gateway import rdp


def long_way(mechanism: Mechanism, rounds: int, delta: float) -> float:
    orders, divergences = curve.default_curve(mechanism)
    epsilon, _ = compute_epsilon(orders, rounds * divergences, delta)
    return float(epsilon)


@settings(max_examples=25)
@given(
    clients=st.sampled_from([3, 50, 539, 3383, 10**6]),
    share=st.floats(0.001, 0.999),
    noise=st.floats(0.1, 10.0),
    rounds=st.integers(1, 3000),
    delta=st.sampled_from([1e-4, 1e-5, 1e-6]),
)
def test_both_ways_agree_to_the_last_bit(
    clients: int, share: float, noise: float, rounds: int, delta: float
) -> None:
    cohort = max(1, int(clients * share))
    mechanism = Mechanism("poisson_gaussian", noise, clients, cohort)
    assert curve.standalone_epsilon(mechanism, rounds, delta) == long_way(mechanism, rounds, delta)


@pytest.mark.parametrize(
    ("clients", "cohort", "rounds", "noise", "epsilon"),
    [(3383, 120, 100, 1.2, 1.9861145998784593), (3, 2, 10, 0.05, 2267.1770956999753)],
)
def test_published_figures(
    clients: int, cohort: int, rounds: int, noise: float, epsilon: float
) -> None:
    mechanism = Mechanism("poisson_gaussian", noise, clients, cohort)
    assert curve.standalone_epsilon(mechanism, rounds, 1e-5) == pytest.approx(epsilon, rel=1e-12)


@pytest.mark.parametrize("q", [1e-6, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("z", [0.2, 1.1, 50.0, 1e3])
def test_whole_orders_at_once_are_the_second_engines_one_by_one(q: float, z: float) -> None:
    found = optimum._whole_divergences(q, z)
    assert found == pytest.approx([rdp.sgm_rdp(q, z, order) for order in optimum.WHOLE], rel=1e-12)
