"""Pricing in bulk is dp-accounting's own, to the last bit."""

from __future__ import annotations

import pytest
from dp_accounting.rdp.rdp_privacy_accountant import _compute_rdp_poisson_subsampled_gaussian
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accounting import curve, optimum, series
from accounting.mechanism import Mechanism

ORDERS = [*optimum.FRACTIONAL.tolist(), *optimum.WHOLE.tolist()]


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    """As many small numbers as large ones."""
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


@settings(max_examples=300)
@given(q=powers(-9.0, -1e-4), z=powers(-2.0, 4.0), order=st.sampled_from(ORDERS))
@example(q=1e-9, z=0.01, order=1.1)  # the series is given up
@example(q=0.999, z=0.01, order=1024.0)
@example(q=1e-9, z=1e4, order=1.5)
def test_one_order_has_the_bits_of_dp_accounting(q: float, z: float, order: float) -> None:
    (theirs,) = _compute_rdp_poisson_subsampled_gaussian(q, z, [order])
    assert series.divergence(q, z, order) == theirs


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["poisson_gaussian", "adaptive_clipping_gaussian", "banded_gaussian"]),
    clients=st.sampled_from([3, 539, 3383, 10**6]),
    share=st.floats(0.001, 1.0),
    noise=powers(-1.0, 1.0),
    rounds=st.integers(1, 3000),
)
def test_prices_and_epsilons_in_bulk_are_the_exact_ones(
    kind: str, clients: int, share: float, noise: float, rounds: int
) -> None:
    mechanism = made(kind, noise, clients, max(1, int(clients * share)))
    assert curve.IN_BULK.price(mechanism) == curve.EXACT.price(mechanism)
    bulk = curve.IN_BULK.standalone_epsilon(mechanism, rounds, 1e-5)
    assert bulk == curve.EXACT.standalone_epsilon(mechanism, rounds, 1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "tree_gaussian", "fixed_size_gaussian"])
def test_what_has_no_series_is_priced_as_ever(kind: str) -> None:
    mechanism = made(kind, 2.0, 1000, 50)
    assert curve.IN_BULK.price(mechanism) == curve.EXACT.price(mechanism)
    bulk = curve.IN_BULK.standalone_epsilon(mechanism, 10, 1e-5)
    assert bulk == curve.EXACT.standalone_epsilon(mechanism, 10, 1e-5)


def made(kind: str, noise: float, clients: int, cohort: int) -> Mechanism:
    """A mechanism of a kind; a banded matrix takes its cohort from half of the people."""
    if kind == "banded_gaussian":
        cohort = max(1, min(cohort, clients // 2))
        return Mechanism(kind, noise, clients, cohort, steps=24, bands=2)  # type: ignore[arg-type]
    count_noise = noise * 3 if kind == "adaptive_clipping_gaussian" else None
    steps = 24 if kind == "tree_gaussian" else 0
    if kind in ("gaussian", "tree_gaussian"):
        clients = cohort = 0
    return Mechanism(kind, noise, clients, cohort, steps, count_noise)  # type: ignore[arg-type]
