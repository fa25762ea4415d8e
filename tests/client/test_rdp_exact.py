"""The independent engine piece by piece against sixty digits, and what it says of every kind."""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy_gateway import rdp

Form = dict[str, Any]
POISSON: Form = {
    "kind": "poisson_gaussian",
    "noise_multiplier": "1.5",
    "clients": 100,
    "clients_per_round": 10,
}
BANDED = POISSON | {"kind": "banded_gaussian", "bands": 4, "steps": 30}
FIXED = POISSON | {"kind": "fixed_size_gaussian"}
ADAPTIVE = POISSON | {"kind": "adaptive_clipping_gaussian"}
PLAIN: Form = {"kind": "gaussian", "noise_multiplier": "1.5"}
TREE = PLAIN | {"kind": "tree_gaussian", "steps": 5}
PUBLIC: Form = {"kind": "public_data"}

EVENT = "GaussianDpEvent(noise_multiplier=1.5)"
HALVED = "GaussianDpEvent(noise_multiplier=0.75)"
IN_A_GROUP = f"PoissonSampledDpEvent(sampling_probability=0.4, event={EVENT})"
OF_ALL = "source_dataset_size=100, sample_size=10"
EVENTS = [
    (PUBLIC, "NoOpDpEvent()"),
    (PLAIN, EVENT),
    (TREE, "SingleEpochTreeAggregationDpEvent(noise_multiplier=1.5, step_counts=5)"),
    (POISSON, f"PoissonSampledDpEvent(sampling_probability=0.1, event={EVENT})"),
    (ADAPTIVE, f"PoissonSampledDpEvent(sampling_probability=0.1, event={EVENT})"),
    (BANDED, f"SelfComposedDpEvent(event={IN_A_GROUP}, count=8)"),
    (FIXED, f"SampledWithoutReplacementDpEvent({OF_ALL}, event={HALVED})"),
]


@pytest.mark.parametrize(("form", "text"), EVENTS, ids=[form["kind"] for form, _ in EVENTS])
def test_the_event_of_every_kind(form: Form, text: str) -> None:
    assert rdp.event_text(form) == text


def test_the_curve_of_every_kind_is_that_of_its_event() -> None:
    """Depth 3 of five leaves; eight uses at four tenths; half the noise for a replacement."""
    orders = (1.5, 2.0, 7.0)
    wanted = [
        (PUBLIC, [0.0] * 3),
        (PLAIN, [a / 4.5 for a in orders]),
        (TREE, [3 * a / 4.5 for a in orders]),
        (POISSON, [rdp.sgm_rdp(0.1, 1.5, a) for a in orders]),
        (ADAPTIVE, [rdp.sgm_rdp(0.1, 1.5, a) for a in orders]),
        (BANDED, [8 * rdp.sgm_rdp(0.4, 1.5, a) for a in orders]),
        (FIXED, [rdp.fixed_size_rdp(0.1, 0.75, a) for a in orders]),
    ]
    for form, values in wanted:
        assert rdp.curve(form, orders) == pytest.approx(values, rel=1e-14)
        assert len(rdp.curve(form)) == len(rdp.ORDERS)
    whole = {form["kind"] for form, _ in wanted if rdp.charged_whole(form)}
    assert whole == {"tree_gaussian", "banded_gaussian"}


@pytest.mark.parametrize(
    ("form", "change", "said"),
    [
        (POISSON, {"kind": "laplace"}, "^unknown mechanism 'laplace'"),
        (PLAIN, {"noise_multiplier": "-1.0"}, "^noise_multiplier -1.0 is not"),
        (PLAIN, {"noise_multiplier": "0.0"}, "^noise_multiplier 0.0 is not"),
        (PLAIN, {"noise_multiplier": 2.0}, "^noise_multiplier 2.0 is not"),
        (TREE, {"steps": 0}, "^steps must be"),
        (BANDED, {"steps": 2.0}, "^steps must be"),
        (BANDED, {"bands": None}, "^bands must be"),
        (BANDED, {"bands": 11}, r"^the sampling rate 1\.1 is"),
        (POISSON, {"clients": 10**400}, r"^the sampling rate 0\.0 is"),
        (POISSON, {"clients": True}, "^clients must be"),
        (POISSON, {"clients_per_round": 0}, "^clients_per_round must be"),
        (FIXED, {"clients_per_round": 101}, r"^the sampling rate 1\.01 is"),
    ],
)
def test_what_is_wrong_with_a_mechanism_is_named(form: Form, change: Form, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rdp.curve(form | change)


@pytest.mark.parametrize("form", [POISSON, FIXED, BANDED | {"bands": 1}])
def test_everybody_in_every_round_is_no_sampling(form: Form) -> None:
    uses, noise = rdp.participations(form), 0.75 if form is FIXED else 1.5
    assert uses == (30 if "bands" in form else 1)
    for order, value in zip(rdp.ORDERS, rdp.curve(form | {"clients_per_round": 100}), strict=True):
        assert value == uses * rdp.gaussian_rdp(noise, order)


def test_one_of_one_is_the_least_there_is() -> None:
    one = {"clients": 1, "clients_per_round": 1, "steps": 1, "bands": 1}
    for form in (POISSON, FIXED, BANDED, TREE):
        assert rdp.curve(form | one) == rdp.curve(
            PLAIN | {"noise_multiplier": "0.75" if form is FIXED else "1.5"}
        )


def test_between_whole_orders_the_bound_on_a_fixed_size_is_a_chord() -> None:
    for order in (1.25, 2.5, 3.75):
        low = math.floor(order)
        below, above = (
            (a - 1) * rdp.fixed_size_rdp(0.1, 2.0, a) if a > 1 else 0.0 for a in (low, low + 1)
        )
        chord = below + (order - low) * (above - below)
        assert (order - 1) * rdp.fixed_size_rdp(0.1, 2.0, order) == pytest.approx(chord, rel=1e-13)


# log E[(1 − q + q e^u)^a] by adaptive quadrature in forty digits.
MOMENTS: list[tuple[float, float, float, float]] = [
    (1e-06, 0.6, 1.5, 5.6559585208451464692e-12),
    (0.5, 1.4, 1.1, 0.0075230298181889898938),
    (0.3, 1.0, 1.5, 0.046781833244073020837),
    (0.01, 0.1, 2.5, 175.98707453502975082),
    (0.9, 0.05, 3.5, 1749.6312381951974137),
    (0.001, 2.0, 3.5, 1.2431901422143299947e-6),
]


@pytest.mark.parametrize(("q", "noise", "order", "exact"), MOMENTS)
def test_moments_between_whole_orders(q: float, noise: float, order: float, exact: float) -> None:
    found = rdp._fractional_log_moment(q, noise, order)
    assert found == pytest.approx(exact, rel=2e-11, abs=0)
    assert rdp.sgm_rdp(q, noise, order) == found / (order - 1)


@pytest.mark.parametrize("q", [1e-9, 0.01, 0.999])
@pytest.mark.parametrize("noise", [0.02, 0.7, 1.0, 50.0])
@pytest.mark.parametrize("order", [2, 3, 8, 128])
def test_moments_at_whole_orders_are_the_binomial_sum(q: float, noise: float, order: int) -> None:
    with localcontext(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN):
        p, z = Decimal(q), Decimal(noise)
        terms = [
            math.comb(order, k) * p**k * (1 - p) ** (order - k) * ((k * k - k) / (2 * z * z)).exp()
            for k in range(order + 1)
        ]
        exact = float(sum(terms, Decimal(0)).ln() / (order - 1))
    assert rdp.sgm_rdp(q, noise, float(order)) == pytest.approx(exact, rel=1e-12, abs=0)


def mixture(q: float, u: Decimal) -> Decimal:
    return 1 - Decimal(q) + Decimal(q) * u.exp()


@pytest.mark.parametrize("q", [1e-12, 1e-3, 0.5, 0.999])
@pytest.mark.parametrize("u", [-40.0, -1.0, 1e-9, 0.5, 29.9, 30.0, 30.1, 45.0, 800.0])
def test_the_mixture_in_the_log_domain(q: float, u: float) -> None:
    with localcontext(prec=60):
        exact = float(mixture(q, Decimal(u)).ln())
    assert rdp._log_mixture(q, u) == pytest.approx(exact, rel=1e-13, abs=0)


@pytest.mark.parametrize("q", [1e-4, 0.3, 0.9])
@pytest.mark.parametrize("noise", [0.25, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [-5.0, -0.5, 0.0, 0.75, 2.0, 9.0])
def test_the_integrand_and_what_it_exceeds_its_mean_by(q: float, noise: float, t: float) -> None:
    order = 2.5
    with localcontext(prec=60):
        a, z, x = Decimal(order), Decimal(noise), Decimal(t)
        mixed = mixture(q, x / z - 1 / (2 * z * z))
        weight = (-x * x / 2).exp()
        power = (a * mixed.ln()).exp()
        height = float(power.ln() - x * x / 2)
        excess = float(weight * (power - 1 - a * (mixed - 1)))
        # What is subtracted loses the digits of what it is subtracted from.
        lost = 1e-14 * float(weight * (1 + a * abs(mixed - 1)))
    assert rdp._log_integrand(q, noise, order, t) == pytest.approx(height, rel=1e-12, abs=1e-14)
    assert rdp._excess(q, noise, order, t) == pytest.approx(excess, rel=1e-12, abs=lost)


def test_the_grid_covers_its_interval() -> None:
    assert list(rdp._steps(1.0, 2.0, 0.5)) == [1.0, 1.5, 2.0]
    assert list(rdp._steps(-1.0, 0.2, 0.5)) == [-1.0, -0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("heights", "windows"),
    [
        ([0, 0, 0, 0, 0, 0], []),
        ([0, 0, 0, 5, 0, 0], [(2, 4)]),
        ([0, 5, 9, 5, 4, 0], [(0, 4)]),
        ([5, 0, 0, 0, 6, 0], [(0, 1), (3, 5)]),
        ([0, 0, 5, 0, 0, 7], [(1, 3), (4, 5)]),
        ([6, 5, 5, 5, 5, 5], [(0, 5)]),
    ],
)
def test_windows_are_one_cell_wider_than_what_matters(
    heights: list[float], windows: list[tuple[float, float]]
) -> None:
    assert list(rdp._windows(range(6), heights, 5.0)) == windows


@given(nats=st.floats(0.0, 9e6))
@example(nats=0.5)
def test_a_cost_is_the_least_whole_number_that_suffices(nats: float) -> None:
    assert rdp.ceil_pico(nats) == math.ceil(Fraction(nats) * rdp.PICO)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-300, 9223372.04])
def test_what_64_bits_cannot_hold_is_named(bad: float) -> None:
    assert rdp.ceil_pico(9223372.03) > 0.99 * rdp.INT64_MAX
    with pytest.raises(OverflowError, match=f"^{bad} nats"):
        rdp.ceil_pico(bad)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 8.0, 50.0, 1000.0])
@pytest.mark.parametrize("delta", ["1e-12", "1e-06", "0.001"])
def test_the_weights_fall_off_from_where_a_budget_of_equal_jobs_ends(
    epsilon: float, delta: str
) -> None:
    weights = rdp.default_weights(round(epsilon * rdp.NANO), delta)
    assert rdp.FEMTO - 32 <= sum(weights) <= rdp.FEMTO
    peak = weights.index(max(weights))
    for k, weight in enumerate(weights):
        assert weight == pytest.approx(weights[peak] / (1 + abs(k - peak)) ** 2, rel=1e-6)
    log = -math.log(float(delta))
    centre = 1 + 0.75 * math.sqrt(log) / (math.sqrt(log + epsilon) - math.sqrt(log))
    nearest = min(rdp.ORDERS, key=lambda order: abs(math.log((order - 1) / (centre - 1))))
    assert rdp.ORDERS[peak] == nearest


def test_limits_are_those_of_the_conversion_rounded_down() -> None:
    """ε − log(1 − 1/a) + log(w δ a)/(a − 1), to the last unit."""
    weights = [rdp.FEMTO, rdp.FEMTO // 3, 1]
    orders = [1.5, 8.0, 128.0]
    found = rdp.limits(2 * rdp.NANO, "1e-05", weights, orders)
    for order, weight, limit in zip(orders, weights, found, strict=True):
        with localcontext(prec=70):
            a, share = Decimal(order), Decimal(weight) * Decimal("1e-05") / rdp.FEMTO
            exact = 2 - ((a - 1) / a).ln() + (share * a).ln() / (a - 1)
            assert limit == math.floor(exact * rdp.PICO)
    with pytest.raises(ValueError):
        rdp.limits(rdp.NANO, "1e-05", weights[:2], orders)


@pytest.mark.parametrize(
    ("limit", "spent", "nano"),
    [
        ((5_000, -1), (0, 0), 0),
        ((0, -1), (0, 7), 7),
        ((0, -1), (1, 0), 8),
        ((1, -1), (1, 9), 7),
        ((5_000, 4_000), (1_000, 2_500), 3),
        ((5_000, 4_000), (1_001, 2_500), 4),
        ((9_000, 4_000), (1, 0), 0),
        ((6_999, -1), (0, 1), 1),
        ((6_000, -1), (0, 1), 1),
    ],
)
def test_the_odometer_is_the_budget_less_the_most_room(
    limit: tuple[int, ...], spent: tuple[int, ...], nano: int
) -> None:
    found = rdp.epsilon_spent(7, limit, spent)
    assert (found, type(found)) == (max(0, nano), int)


def test_the_odometer_keeps_every_digit() -> None:
    assert rdp.epsilon_spent(10**13, (10**16,), (10**16 - 1,)) == 10**13
    assert rdp.epsilon_spent(10**13, (10**16 - 1001,), (1,)) == 2
    assert rdp.epsilon_spent(10**17 + 7, (1,), (10**18 + 1,)) == 10**17 + 10**15 + 7


def test_the_odometer_wants_a_cost_at_every_order() -> None:
    for spent in ((1,), (1, 1, 1)):
        with pytest.raises(ValueError, match=r"^Expected 2 orders, not"):
            rdp.epsilon_spent(7, (1, 1), spent)
