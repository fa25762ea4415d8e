"""Edges of a price: what engines may differ by, what fits, and each engine against exactness."""

from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting
import pytest
from dp_accounting.rdp import RdpAccountant

from accounting import curve
from accounting.curve import Price, agree, price
from accounting.mechanism import MAX_ROUNDS, Mechanism
from privacy_gateway import gdp, rdp
from privacy_gateway.errors import Refused

PLAIN = Mechanism("gaussian", 2.0)
POISSON = Mechanism("poisson_gaussian", 1.5, 100, 10)
BANDED = Mechanism("banded_gaussian", 1.5, 100, 10, steps=30, bands=4)
FIXED = Mechanism("fixed_size_gaussian", 3.0, 100, 10)
TREE = Mechanism("tree_gaussian", 3.0, steps=5)
KINDS = (PLAIN, POISSON, BANDED, FIXED, TREE)


@pytest.mark.parametrize("rounds", [-1, MAX_ROUNDS + 1, True, 2.0, "3", None])
def test_only_whole_rounds_have_a_total(rounds: object) -> None:
    with pytest.raises(Refused) as refusal:
        price(PLAIN).total(rounds)  # type: ignore[arg-type]
    assert refusal.value.code == "invalid_request"
    assert [error.field for error in refusal.value.errors] == ["rounds"]


def test_a_total_fits_64_bits_or_is_refused() -> None:
    most = rdp.INT64_MAX // MAX_ROUNDS
    full = Price(PLAIN, (1,) * 15 + (rdp.INT64_MAX,))
    assert full.total(0) == (0,) * 16
    assert full.total(1) == full.per_round
    assert Price(PLAIN, (most,) * 16).total(MAX_ROUNDS) == (most * MAX_ROUNDS,) * 16
    for cost, rounds in ((full, 2), (Price(PLAIN, (0, most + 1)), MAX_ROUNDS)):
        with pytest.raises(Refused, match=f"of {rounds} rounds") as refusal:
            cost.total(rounds)
        assert refusal.value.code == "price_overflow"


@pytest.mark.parametrize(
    ("first", "second", "uses", "same"),
    [
        (1.0, 1.0, 1, True),
        (0.0, 0.0, 1, True),
        (1.0, 1.0 + 0.9e-6, 1, True),
        (1.0 + 0.9e-6, 1.0, 1, True),
        (1.0, 1.0 + 1.1e-6, 1, False),
        (1.0 + 1.1e-6, 1.0, 1, False),
        (1e6, 1e6 + 0.9, 1, True),
        (1e6, 1e6 + 1.1, 1, False),
        (0.0, 0.9e-13, 1, True),
        (0.0, 1.000001000001e-13, 1, True),
        (0.0, 1.1e-13, 1, False),
        (1e-13, 8.9e-13, 8, True),
        (1e-13, 9.3e-13, 8, False),
        (math.nan, 1.0, 1, False),
        (1.0, math.nan, 1, False),
        (math.inf, 1.0, 1, False),
        (1.0, math.inf, 1, False),
    ],
)
def test_what_two_engines_may_differ_by(first: float, second: float, uses: int, same: bool) -> None:
    assert agree(first, second, uses) is same
    assert agree(second, first, uses) is same
    assert uses > 1 or agree(first, second) is same


def test_the_larger_value_of_both_is_charged() -> None:
    ours = rdp.curve(POISSON.canonical())
    for factor in (1 - 5e-7, 1 + 5e-7):
        other = [value * factor for value in ours]
        wanted = tuple(rdp.ceil_pico(max(a, b)) for a, b in zip(ours, other, strict=True))
        made = curve._priced(POISSON, other)
        assert (made.mechanism, made.per_round) == (POISSON, wanted)


def test_every_use_of_a_clients_data_may_lose_a_digit() -> None:
    form = replace(BANDED, noise_multiplier=10_000.0)
    ours = rdp.curve(form.canonical())
    assert ours[0] < 1e-6
    curve._priced(form, [value + 7.9e-13 for value in ours])
    with pytest.raises(Refused) as refusal:
        curve._priced(form, [value + 9e-13 + 1e-6 * value for value in ours])
    assert refusal.value.facts["order"] == 1.5


def test_an_engine_that_tells_too_little_has_no_price() -> None:
    for count in (0, 15, 17):
        with pytest.raises(ValueError):
            curve._priced(POISSON, ([*curve.authoritative(POISSON), 99.0])[:count])
    with pytest.raises(ValueError):
        curve._first_curve(POISSON, lambda _, orders: (1.0,) * (len(orders) - 1))


def test_a_value_beyond_64_bits_says_how_great_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdp, "curve", lambda _: (1e7,) * 16)
    with pytest.raises(Refused, match=r"10000000\.0 nats") as refusal:
        curve._priced(PLAIN, (1e7,) * 16)
    assert refusal.value.code == "price_overflow"


@pytest.mark.parametrize("noise", [0.067, 0.142, 1.92, 7.848])
def test_a_plain_gaussian_costs_no_less_than_its_exact_fraction(noise: float) -> None:
    """Where the last digit of a double lies below it."""
    made = price(Mechanism("gaussian", noise))
    exact = gdp.exact_costs(noise)
    doubles = [rdp.ceil_pico(rdp.gaussian_rdp(noise, order)) for order in rdp.ORDERS]
    assert any(a > b for a, b in zip(exact, doubles, strict=True))
    assert made.per_round == tuple(max(a, b) for a, b in zip(exact, doubles, strict=True))


@pytest.mark.parametrize("mechanism", KINDS, ids=lambda mechanism: mechanism.kind)
def test_the_first_engine_is_dp_accounting_at_whole_orders(mechanism: Mechanism) -> None:
    accountant = RdpAccountant(rdp.ORDERS, mechanism.neighboring_relation)
    accountant.compose(mechanism.dp_event())
    first, bulk = curve.authoritative(mechanism), curve.IN_BULK.price(mechanism)
    for order, value, wanted in zip(rdp.ORDERS, first, accountant.rdp, strict=True):
        # Between whole orders its series bounds a sampled mechanism from above.
        bound = not order.is_integer() and mechanism in (POISSON, BANDED)
        assert (0 < value < wanted) if bound else value == wanted
        assert type(value) is float
    assert bulk == price(mechanism)
    assert all(type(part) is int for part in bulk.per_round)


def test_everybody_in_every_round_costs_what_no_sampling_does() -> None:
    every = replace(POISSON, clients_per_round=100)
    assert curve.authoritative(every) == curve.authoritative(Mechanism("gaussian", 1.5))
    banded = replace(BANDED, bands=1, clients_per_round=100)
    once = curve.authoritative(Mechanism("gaussian", 1.5))
    assert curve.authoritative(banded) == pytest.approx([30 * value for value in once], rel=1e-12)


@pytest.mark.parametrize("mechanism", [PLAIN, POISSON, FIXED], ids=lambda m: m.kind)
def test_epsilon_alone_is_dp_accountings(mechanism: Mechanism) -> None:
    rounds = 100
    accountant = RdpAccountant(neighboring_relation=mechanism.neighboring_relation)
    accountant.compose(mechanism.composed_event(rounds))
    wanted = accountant.get_epsilon(1e-6)
    for pricing in (curve.EXACT, curve.IN_BULK):
        found = pricing.standalone_epsilon(mechanism, rounds, 1e-6)
        assert type(found) is float
        assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("pricing", [curve.EXACT, curve.IN_BULK], ids=["exact", "bulk"])
def test_rounds_of_an_epsilon_are_whole_and_not_too_many(pricing: curve.Pricing) -> None:
    for rounds in (0, MAX_ROUNDS + 1, True, 2.0):
        with pytest.raises(Refused) as refusal:
            pricing.standalone_epsilon(PLAIN, rounds, 1e-6)  # type: ignore[arg-type]
        assert [error.field for error in refusal.value.errors] == ["rounds"]
    assert pricing.standalone_epsilon(PLAIN, MAX_ROUNDS, 1e-6) > 1e5


def test_events_for_privacy_loss_distributions() -> None:
    assert curve.pld_event(POISSON, 7) == POISSON.composed_event(7)
    # A tree of five leaves is three deep: one Gaussian of sensitivity sqrt(3).
    assert curve.pld_event(TREE, 7) == dp_accounting.SelfComposedDpEvent(
        dp_accounting.GaussianDpEvent(3.0 / math.sqrt(3)), 7
    )


# E[(1 − q + q e^u)^a], its logarithm by adaptive quadrature in forty digits.
MOMENTS = [
    (0.5, 1.4, 1.1, 0.0075230298181889898938),
    (0.3, 1.0, 1.5, 0.046781833244073020837),
    (0.01, 0.1, 2.5, 175.98707453502975082),
    (0.9, 0.05, 3.5, 1749.6312381951974137),
]


@pytest.mark.parametrize(("q", "noise", "order", "exact"), MOMENTS)
def test_the_second_quadrature_between_whole_orders(
    q: float, noise: float, order: float, exact: float
) -> None:
    found = curve._quadrature(q, noise, order)
    assert found == pytest.approx(exact / (order - 1), rel=1e-10, abs=0)


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.3, 5.0, 300.0])
@pytest.mark.parametrize("q", [0.2, 0.99])
def test_both_quadratures_agree(q: float, noise: float) -> None:
    for order in (1.5, 2.5, 3.5):
        other = rdp.sgm_rdp(q, noise, order)
        assert curve._quadrature(q, noise, order) == pytest.approx(other, rel=1e-8, abs=1e-14)


def test_what_cannot_be_told_from_nothing_is_not_negative() -> None:
    assert curve._quadrature(1e-9, 1e4, 1.5) >= 0.0
