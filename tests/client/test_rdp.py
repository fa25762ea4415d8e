"""The independent engine alone: closed forms, laws, rounding, and what it refuses to price."""

from __future__ import annotations

import math
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gateway import rdp

rates = st.floats(1e-6, 0.999)
noises = st.floats(0.05, 100.0)


@given(q=rates, noise=noises)
def test_the_curve_rises_with_the_order_and_stays_below_no_sampling(q: float, noise: float) -> None:
    curve = [rdp.sgm_rdp(q, noise, order) for order in rdp.ORDERS]
    assert curve == sorted(curve)
    for value, order in zip(curve, rdp.ORDERS, strict=True):
        assert 0 < value <= rdp.gaussian_rdp(noise, order) * (1 + 1e-12)


@given(q=rates, noise=noises, order=st.floats(1.05, 9.95))
def test_fractional_orders_lie_between_their_neighbours(
    q: float, noise: float, order: float
) -> None:
    """(a − 1) R_a is convex in a, zero at 1; so quadrature has bounds on both sides."""
    low, high = math.floor(order), math.floor(order) + 1
    if order == low:
        return
    below = (low - 1) * rdp.sgm_rdp(q, noise, float(low)) if low > 1 else 0.0
    above = (high - 1) * rdp.sgm_rdp(q, noise, float(high))
    chord = below + (order - low) * (above - below)
    value = (order - 1) * rdp.sgm_rdp(q, noise, order)
    assert below * (1 - 1e-9) - 1e-15 <= value <= chord * (1 + 1e-9) + 1e-15


@given(q=st.floats(1e-4, 0.9), noise=noises, share=st.floats(0.1, 0.99))
def test_more_noise_and_smaller_samples_cost_less(q: float, noise: float, share: float) -> None:
    for order in (1.5, 2.0, 3.5, 10.0, 64.0):
        here = rdp.sgm_rdp(q, noise, order)
        assert rdp.sgm_rdp(q * share, noise, order) <= here * (1 + 1e-12)
        assert rdp.sgm_rdp(q, noise / share, order) <= here * (1 + 1e-12)


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("q", [1e-6, 0.01, 0.5])
def test_the_quadrature_gives_the_exact_sums_at_whole_orders(q: float, noise: float) -> None:
    """The less noise, the finer the grid it needs."""
    for order in (2, 5, 10):
        exact = rdp._integer_log_moment(q, noise, order)
        assert rdp._fractional_log_moment(q, noise, order) == pytest.approx(exact, rel=1e-12)


def test_tiny_rates_keep_their_digits() -> None:
    for order in rdp.ORDERS[:6]:
        leading = order / 2 * 1e-18 * math.expm1(1.0)
        assert rdp.sgm_rdp(1e-9, 1.0, order) == pytest.approx(leading, rel=1e-5)


def test_order_two_has_a_closed_form() -> None:
    for q, noise in ((0.3, 0.7), (0.01, 1.0), (0.9, 5.0)):
        closed = math.log1p(q * q * math.expm1(1 / noise**2))
        assert rdp.sgm_rdp(q, noise, 2.0) == pytest.approx(closed, rel=1e-14)


def test_extreme_noise_neither_overflows_nor_vanishes() -> None:
    for q in (1e-9, 0.5, 1 - 1e-9):
        for noise in (0.01, 1e4):
            for order in rdp.ORDERS:
                value = rdp.sgm_rdp(q, noise, order)
                assert math.isfinite(value)
                assert value > 0
                assert math.isfinite(rdp.fixed_size_rdp(q, noise / 2, order))


@given(q=st.floats(1e-5, 0.999), noise=st.floats(0.3, 50.0))
def test_fixed_size_curves_rise_with_the_order(q: float, noise: float) -> None:
    curve = [rdp.fixed_size_rdp(q, noise, order) for order in rdp.ORDERS]
    assert all(a <= b * (1 + 1e-12) for a, b in zip(curve, curve[1:], strict=False))
    assert rdp.fixed_size_rdp(1.0, noise, 8.0) == rdp.gaussian_rdp(noise, 8.0)


@pytest.mark.parametrize(
    ("steps", "depth"), [(1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11)]
)
def test_trees_cost_their_depth(steps: int, depth: int) -> None:
    assert rdp.tree_rdp(steps, 2.0, 8.0) == depth * rdp.gaussian_rdp(2.0, 8.0)


GOOD = {
    "kind": "poisson_gaussian",
    "noise_multiplier": "1.0",
    "clients": 10,
    "clients_per_round": 5,
}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "laplace"},
        {"noise_multiplier": 1},
        {"noise_multiplier": 1.0},
        {"noise_multiplier": "nan"},
        {"noise_multiplier": "inf"},
        {"noise_multiplier": "-1.0"},
        {"noise_multiplier": "0.0"},
        {"noise_multiplier": None},
        {"clients": 0},
        {"clients": "10"},
        {"clients": True},
        {"clients_per_round": 11},
        {"clients_per_round": None},
        {"kind": "tree_gaussian"},
    ],
    ids=repr,
)
def test_a_malformed_mechanism_has_no_price(change: dict[str, Any]) -> None:
    assert len(rdp.curve(GOOD)) == 16
    with pytest.raises(ValueError):
        rdp.curve(GOOD | change)


def test_costs_round_up_and_limits_down() -> None:
    assert rdp.ceil_pico(0.0) == 0
    assert rdp.ceil_pico(1e-30) == 1
    assert rdp.ceil_pico(1.0) == rdp.PICO
    assert rdp.ceil_pico(math.nextafter(1.0, 2.0)) == rdp.PICO + 1
    assert rdp.floor_pico(Decimal("0.9999999999999")) == rdp.PICO - 1
    assert rdp.floor_pico(Decimal("-0.0000000000001")) == -1
    for bad in (math.nan, math.inf, -1.0, 1e7):
        with pytest.raises(OverflowError):
            rdp.ceil_pico(bad)


def test_the_engine_is_plain_python_and_starts_at_once() -> None:
    program = (
        "import sys, privacy_gateway.rdp, privacy_gateway.verify;"
        "heavy = {'numpy', 'scipy', 'dp_accounting', 'tensorflow'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": "client"})
