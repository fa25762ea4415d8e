"""Prices against published numbers, and what must never be priced."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import curve
from accounting.curve import agree, authoritative, price, standalone_epsilon, standalone_epsilon_pld
from accounting.mechanism import Mechanism, banded_rounds
from accounting.plan import TrainingPlan
from privacy_gateway import rdp
from privacy_gateway.errors import Refused
from tests.accounting.support import VECTORS, poisson

CORE = VECTORS["core_cases"]
PUBLISHED = {case["id"]: case for case in VECTORS["published"]}
CLASSIC_ORDERS = [1.25, 1.5, 1.75, *range(2, 33)]


def plan(case: dict[str, Any]) -> TrainingPlan:
    given_ = case["inputs"]
    return TrainingPlan(
        given_["no_clients"],
        given_["clients_per_round"],
        given_["rounds"],
        given_["noise_multiplier"],
        sampling=case["sampling"],
    )


@pytest.mark.parametrize("case", CORE, ids=lambda case: case["id"])
def test_standalone_epsilon_is_the_reference(case: dict[str, Any]) -> None:
    wanted = plan(case)
    epsilon = standalone_epsilon(wanted.mechanism, wanted.rounds, case["inputs"]["delta"])
    expected = case["expect"]["eps_rdp_dp_accounting_0_6_0_default_orders"]
    assert epsilon == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", CORE, ids=lambda case: case["id"])
def test_the_independent_engine_gives_the_reference_at_integer_orders(case: dict[str, Any]) -> None:
    wanted, delta = plan(case), case["inputs"]["delta"]
    form = wanted.mechanism.canonical()
    orders = [*(float(order) for order in range(2, 65)), 128.0, 192.0, 256.0, 512.0]
    values = rdp.curve(form, orders)
    epsilon = min(
        wanted.rounds * value + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        for order, value in zip(orders, values, strict=True)
    )
    expected = case["expect"]["eps_rdp_integer_orders_2_64_and_tail"]
    assert epsilon == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [case for case in CORE if "eps_pld_dp_accounting" in case["expect"]],
    ids=lambda c: c["id"],
)
def test_pld_epsilon_is_the_reference_and_below_rdp(case: dict[str, Any]) -> None:
    wanted, delta = plan(case), case["inputs"]["delta"]
    epsilon = standalone_epsilon_pld(wanted.mechanism, wanted.rounds, delta)
    assert epsilon == pytest.approx(case["expect"]["eps_pld_dp_accounting"], abs=0.01)
    assert epsilon < standalone_epsilon(wanted.mechanism, wanted.rounds, delta) + 1e-9
    lower, _, upper = case["expect"].get("eps_prv_lower_est_upper", [0, 0, math.inf])
    assert lower - 0.02 <= epsilon <= upper + 0.02


@pytest.mark.parametrize("case", CORE, ids=lambda case: case["id"])
def test_a_stored_price_is_never_below_the_authority(case: dict[str, Any]) -> None:
    mechanism = plan(case).mechanism
    exact = authoritative(mechanism)
    for stored, nats in zip(price(mechanism).per_round, exact, strict=True):
        assert stored >= nats * rdp.PICO * (1 - 1e-15)
        assert stored <= nats * rdp.PICO * (1 + 1e-6) + 1.2


def test_the_announcement_and_the_tutorial_cost_what_the_documents_say() -> None:
    announcement = TrainingPlan(3, 2, 10, 0.05).mechanism
    assert standalone_epsilon(announcement, 10, 1e-5) == pytest.approx(2267.1770956999753, rel=1e-9)
    reproduced = PUBLISHED["tff_dp_tutorial"]["reproduced"]
    tutorial = TrainingPlan(3383, 120, 100, 1.2).mechanism
    found = standalone_epsilon(tutorial, 100, 1e-5)
    assert found == pytest.approx(reproduced["clients120"], abs=1e-6)
    fewer = TrainingPlan(3383, 119, 100, 1.19).mechanism
    found = standalone_epsilon(fewer, 100, 1e-5)
    assert found == pytest.approx(reproduced["clients119"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "q", "steps"),
    [("tfp_test1", 0.001, 30_000), ("opacus_rdp_test", 0.04, 2250)],
)
def test_published_rdp_values(name: str, q: float, steps: int) -> None:
    case = PUBLISHED[name]
    epsilon = standalone_epsilon(poisson(q, case["inputs"]["z"]), steps, case["inputs"]["delta"])
    assert epsilon == pytest.approx(case["published"], abs=case.get("tol_abs", case.get("tol")))


def test_published_microbatching_is_half_the_noise() -> None:
    epsilon = standalone_epsilon(
        Mechanism("poisson_gaussian", 1.0, 10_000, 64), -(-5 * 10_000 // 64), 1e-6
    )
    case = PUBLISHED["tfp_statement_microbatching"]
    assert epsilon == pytest.approx(case["reproduced"], abs=2e-3)


@pytest.mark.parametrize("name", ["tfp_example_nosub_pld", "tfp_example_q.01_pld"])
def test_published_pld_values(name: str) -> None:
    case = PUBLISHED[name]["inputs"]
    epsilon = standalone_epsilon_pld(poisson(case["q"], case["z"]), case["steps"], case["delta"])
    assert epsilon == pytest.approx(PUBLISHED[name]["published"], abs=1e-3)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in VECTORS["published"]
        if str(case.get("conversion", "")).startswith("classic") and "E400" not in case["id"]
    ],
    ids=lambda case: case["id"],
)
def test_published_values_by_the_classic_conversion(case: dict[str, Any]) -> None:
    q, z, delta = case["inputs"]["q"], case["inputs"]["z"], case["inputs"]["delta"]
    fine = [1 + x / 10 for x in range(1, 100)] + list(range(11, 64))
    orders = CLASSIC_ORDERS if case["id"].startswith("mcmahan") else fine
    epsilon = min(
        case["inputs"]["steps"] * rdp.sgm_rdp(q, z, float(order)) - math.log(delta) / (order - 1)
        for order in orders
    )
    expected = case.get("reproduced", case["published"])
    assert epsilon == pytest.approx(expected, abs=case.get("tol", 0.005))


def test_published_values_that_other_conversions_gave() -> None:
    """Abadi 2016 by its own integer grid, and by ours; TF Privacy's extreme case by our orders."""
    abadi = PUBLISHED["abadi2016_E400"]
    steps, delta = abadi["inputs"]["steps"], abadi["inputs"]["delta"]
    classic = min(
        steps * rdp.sgm_rdp(0.01, 4.0, float(order)) - math.log(delta) / (order - 1)
        for order in range(2, 33)
    )
    assert classic == pytest.approx(abadi["reproduced"], abs=1e-4)
    assert standalone_epsilon(poisson(0.01, 4.0), steps, delta) == pytest.approx(abadi["cks"])
    huge = Mechanism("poisson_gaussian", 0.1, 10**8, 1024)
    rounds = -(-10 * 10**8 // 1024)
    assert standalone_epsilon(huge, rounds, 1e-7) == pytest.approx(7801.06, abs=0.01)
    case, least = PUBLISHED["tfp_test2_huge"], 1.25
    published = (
        rounds * rdp.sgm_rdp(1024 / 10**8, case["inputs"]["z"], least)
        + math.log1p(-1 / least)
        - math.log(1e-7 * least) / (least - 1)
    )
    assert published == pytest.approx(case["published"], abs=case["tol"])


def test_a_published_zcdp_figure_by_our_conversion() -> None:
    """Gboard 2022: the matrix mechanism is not ours, its conversion from ρ to ε is."""
    case = PUBLISHED["gboard_es_2022"]
    rho, delta = case["published"]["zcdp_rho"], Decimal(str(case["inputs"]["delta"]))
    orders = [Decimal(1) + Decimal(step) / 100 for step in range(10, 3000)]
    epsilon = min(float(Decimal(str(rho)) * a + rdp._conversion(a, delta)) for a in orders)
    assert epsilon == pytest.approx(8.922, abs=1e-3)


@pytest.mark.slow
def test_published_noise_and_epsilon_by_pld() -> None:
    noise = PUBLISHED["jax_privacy_noise"]
    q, steps, delta = (noise["inputs"][name] for name in ("q", "steps", "delta"))
    epsilon = standalone_epsilon_pld(poisson(q, noise["published_z"]), steps, delta)
    assert epsilon == pytest.approx(noise["inputs"]["epsilon"], abs=2e-3)
    abadi = PUBLISHED["abadi2016_E400"]
    assert standalone_epsilon_pld(poisson(0.01, 4.0), 40_000, 1e-5) == pytest.approx(
        abadi["pld"], abs=1e-4
    )


def test_published_noise_multiplier() -> None:
    case = PUBLISHED["opacus_noise_rdp_steps"]
    z = case["published_z"]
    at = standalone_epsilon(poisson(0.04, z), 2000, 1e-5)
    below = standalone_epsilon(poisson(0.04, z - 0.002), 2000, 1e-5)
    assert at <= 8.005 < 8.02 > at
    assert below > 8.0


@pytest.mark.parametrize("case", VECTORS["raw_rdp_exact"], ids=lambda case: str(case["q"]))
def test_both_engines_against_fifty_digits(case: dict[str, Any]) -> None:
    for order, exact in case["rdp_per_round"].items():
        ours = rdp.sgm_rdp(case["q"], case["noise_multiplier"], float(order))
        assert ours == pytest.approx(float(exact), rel=1e-12)


def test_trees_and_banded_matrices() -> None:
    tree = Mechanism("tree_gaussian", 5.0, steps=1023)
    rho = VECTORS["tree_and_mf"][0]["zcdp_rho"]
    for stored, order in zip(price(tree).total(3), rdp.ORDERS, strict=True):
        assert stored == pytest.approx(rho * order * rdp.PICO, rel=1e-9)
    banded = VECTORS["tree_and_mf"][1]
    units = banded_rounds(1000, 10)
    epsilon = standalone_epsilon(poisson(0.1, 1.0), units, banded["delta"])
    assert epsilon == pytest.approx(banded["eps_rdp"], abs=1e-6)
    assert standalone_epsilon_pld(tree, 1, 1e-6) < standalone_epsilon(tree, 1, 1e-6)


def test_fixed_size_is_priced_with_half_the_noise() -> None:
    fixed = Mechanism("fixed_size_gaussian", 1.2, 3383, 120)
    twice = Mechanism("fixed_size_gaussian", 2.4, 3383, 120)
    assert fixed.dp_event().event.noise_multiplier == 0.6
    assert standalone_epsilon(fixed, 100, 1e-5) > 3 * standalone_epsilon(twice, 100, 1e-5)
    assert price(fixed).per_round[5] > price(poisson(120 / 3383, 1.2)).per_round[5]
    assert standalone_epsilon_pld(fixed, 100, 1e-5) is None


def test_an_evaluation_is_an_event_of_its_own() -> None:
    update = Mechanism("poisson_gaussian", 1.0, 100, 10)
    evaluation = Mechanism("poisson_gaussian", 1.0, 100, 10, release="evaluation")
    assert update.digest != evaluation.digest
    assert price(update).per_round == price(evaluation).per_round


@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism("gaussian", 2.0),
        Mechanism("tree_gaussian", 2.0, steps=100),
        Mechanism("poisson_gaussian", 1.2, 3383, 120),
        Mechanism("fixed_size_gaussian", 1.2, 3383, 120),
        Mechanism("adaptive_clipping_gaussian", 1.2, 3383, 120, clip_count_noise=6.0),
    ],
    ids=lambda mechanism: mechanism.kind,
)
def test_the_stored_event_text_is_the_priced_event(mechanism: Mechanism) -> None:
    assert rdp.event_text(mechanism.canonical()) == repr(mechanism.dp_event())


def test_the_noise_of_an_event_is_always_a_float() -> None:
    for kind in ("gaussian", "poisson_gaussian"):
        mechanism = Mechanism(kind, 1, 10, 5)
        event = mechanism.dp_event()
        gaussian = getattr(event, "event", event)
        assert type(gaussian.noise_multiplier) is float
    composed = Mechanism("poisson_gaussian", 1, 10, 5).composed_event(100)
    assert composed.count == 100


def test_engines_that_disagree_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rdp.curve
    monkeypatch.setattr(curve.rdp, "curve", lambda form: tuple(v * 1.00001 for v in real(form)))
    with pytest.raises(Refused) as refusal:
        price(Mechanism("poisson_gaussian", 1.7771, 997, 13))
    assert refusal.value.code == "price_disagreement"


def test_a_disagreement_says_where_and_by_how_much() -> None:
    mechanism = Mechanism("poisson_gaussian", 1.7771, 997, 13)
    first = list(curve.authoritative(mechanism))
    ours = rdp.curve(mechanism.canonical())[5]
    first[5] *= 1.00001
    with pytest.raises(Refused) as refusal:
        curve._priced(mechanism, first)
    assert refusal.value.code == "price_disagreement"
    assert refusal.value.facts == {
        "mechanism": mechanism.digest,
        "order": rdp.ORDERS[5],
        "authoritative": repr(first[5]),
        "independent": repr(ours),
    }


def test_rounds_are_checked_in_bulk_as_they_are_one_by_one() -> None:
    for pricing in (curve.EXACT, curve.IN_BULK):
        for rounds in (0, -1, 10**6 + 1, True):
            with pytest.raises(Refused) as refusal:
                pricing.standalone_epsilon(Mechanism("gaussian", 1.0), rounds, 1e-6)
            assert [error.field for error in refusal.value.errors] == ["rounds"]


def test_an_engine_that_gives_up_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    for lost in (math.nan, math.inf):
        monkeypatch.setattr(curve.rdp, "curve", lambda form, lost=lost: (lost,) * 16)
        with pytest.raises(Refused) as refusal:
            price(Mechanism("poisson_gaussian", 1.8881, 997, 13))
        assert refusal.value.code == "price_disagreement"
    assert not agree(math.nan, math.nan)
    assert not agree(math.inf, math.inf)


def test_a_total_beyond_64_bits_is_refused() -> None:
    cost = price(Mechanism("gaussian", 0.01))
    assert cost.total(0) == (0,) * 16
    assert cost.total(14)[0] == 14 * cost.per_round[0]
    with pytest.raises(Refused) as refusal:
        cost.total(15)
    assert refusal.value.code == "price_overflow"


@given(
    clients=st.integers(1, 10**9),
    share=st.floats(1e-6, 1.0),
    noise=st.floats(-2, 4).map(lambda exponent: 10.0**exponent),
)
def test_two_engines_agree_everywhere_on_poisson(clients: int, share: float, noise: float) -> None:
    mechanism = Mechanism(
        "poisson_gaussian", min(max(noise, 0.01), 1e4), clients, max(1, int(clients * share))
    )
    per_round = price(mechanism).per_round
    assert all(part >= 1 for part in per_round)
    assert list(per_round) == sorted(per_round), "a divergence never falls with the order"


def test_the_price_cache_knows_the_content_not_the_object() -> None:
    first = price(Mechanism("poisson_gaussian", 1.25, 500, 25))
    assert price(Mechanism("poisson_gaussian", 1.25, 500, 25)) is first
