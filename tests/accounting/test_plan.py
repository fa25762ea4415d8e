"""Requests that must be refused before any accountant sees them, each with its field."""

from __future__ import annotations

import math
from typing import Any

import pytest

from accounting.budget import check_delta, epsilon_nano_of, terms_of
from accounting.mechanism import Mechanism, banded_rounds, update_noise
from accounting.plan import TrainingPlan, check_clients, plan_of
from privacy_gateway import schemas
from privacy_gateway.errors import Refused
from tests.accounting.support import VECTORS

GOOD: dict[str, Any] = {
    "population_clients": 1000,
    "clients_per_round": 100,
    "rounds": 10,
    "noise_multiplier": 1.0,
}
NUMBERS_ONLY = [math.nan, math.inf, -math.inf, -1.0, 0, 0.0, 1e-300, 0.009, 1e5, True, "1.0", None]
COUNTS_ONLY = [0, -5, 0.001, 10.0, "10", True, 10**12, None, math.nan]


def refused_field(**changes: Any) -> str:
    with pytest.raises(Refused) as refusal:
        TrainingPlan(**(GOOD | changes))
    assert refusal.value.code == "invalid_request"
    return refusal.value.errors[0].field


@pytest.mark.parametrize("value", NUMBERS_ONLY, ids=repr)
def test_noise_multiplier_is_strict(value: object) -> None:
    assert refused_field(noise_multiplier=value) == "noise_multiplier"


@pytest.mark.parametrize("value", COUNTS_ONLY, ids=repr)
@pytest.mark.parametrize("field", ["rounds", "clients_per_round"])
def test_counts_are_strict(field: str, value: object) -> None:
    assert refused_field(**{field: value}) == field


@pytest.mark.parametrize("value", COUNTS_ONLY, ids=repr)
def test_the_population_size_is_strict(value: object) -> None:
    assert refused_field(population_clients=value) == "clients"


def test_a_cohort_cannot_be_larger_than_the_population() -> None:
    assert refused_field(clients_per_round=1001) == "clients_per_round"


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, 0.0, 1e-305, -1.0, True, "1"], ids=repr)
def test_clip_norm_is_strict(value: object) -> None:
    assert refused_field(clip_norm=value) == "algorithm.clip_norm"


@pytest.mark.parametrize("value", [math.nan, 2.0, 0, 0.0, -1e-6, True, "1e-6", 1e-13, 1.1e-3])
def test_delta_is_strict(value: Any) -> None:
    for check in (lambda: check_delta(value, 10), lambda: terms_of(10**9, value)):
        with pytest.raises(Refused) as refusal:
            check()
        assert refusal.value.errors[0].field == "delta"


def test_delta_is_bounded_by_the_population() -> None:
    assert check_delta(1e-4, 539) == 1e-4
    with pytest.raises(Refused):
        check_delta(1e-4, 1001)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -1.0, True, "8", 10_001.0, 1e-10])
def test_epsilon_is_strict(value: Any) -> None:
    with pytest.raises(Refused) as refusal:
        epsilon_nano_of(value)
    assert refusal.value.errors[0].field == "epsilon"


def test_epsilon_is_stored_as_it_was_written() -> None:
    assert epsilon_nano_of(0.3) == 300_000_000
    assert epsilon_nano_of(8) == 8_000_000_000


def test_the_client_count_comes_from_the_registry() -> None:
    check_clients("no_clients", 1000, 1000)
    with pytest.raises(Refused) as refusal:
        check_clients("no_clients", 2, 1000)
    error = refusal.value.errors[0]
    assert (error.field, error.value, error.limit) == ("no_clients", 2, 1000)


@pytest.mark.parametrize("case", VECTORS["adaptive_clipping"], ids=repr)
def test_adaptive_clipping_shares_the_noise(case: dict[str, Any]) -> None:
    if case["z_delta"] is None:
        with pytest.raises(Refused) as refusal:
            update_noise(case["z"], case["sigma_b"])
        assert refusal.value.errors[0].field == "noise_multiplier"
        return
    assert update_noise(case["z"], case["sigma_b"]) == pytest.approx(case["z_delta"], rel=1e-12)
    plan = TrainingPlan(10_000, case["clients_per_round"], 1, case["z"], clip_norm=None)
    assert plan.mechanism.noise_multiplier == case["z"], "the joint noise is what is priced"
    assert plan.engine_parameters()["noise_multiplier"] == pytest.approx(case["z_delta"])


def test_a_plan_gives_price_and_engine_the_same_numbers() -> None:
    plan = TrainingPlan(**GOOD)
    engine = plan.engine_parameters()
    assert plan.mechanism.sampling_rate == engine["sampling_rate"] == 0.1
    assert engine["denominator"] == 100
    assert engine["noise_multiplier"] == plan.mechanism.noise_multiplier
    assert plan.charge_units == plan.rounds


def test_a_tree_is_charged_by_pass() -> None:
    plan = TrainingPlan(100, 10, 25, 2.0, sampling="none", algorithm="dp_ftrl")
    assert plan.mechanism == Mechanism("tree_gaussian", 2.0, steps=10)
    assert plan.charge_units == 3
    assert plan.mechanism.whole
    assert refused_field(algorithm="dp_ftrl") == "sampling"


def test_combinations_without_a_price_are_refused() -> None:
    assert refused_field(sampling="none") == "clients_per_round"
    assert refused_field(sampling="fixed_size", clip_norm=None) == "algorithm.clip_norm"
    assert refused_field(sampling="shuffled") == "sampling"
    with pytest.raises(Refused):
        Mechanism("laplace", 1.0)  # type: ignore[arg-type]
    with pytest.raises(Refused):
        banded_rounds(10, 11)


@pytest.mark.parametrize(
    ("kind", "sampling", "size", "expected"),
    [
        ("train", "poisson", 100, ("poisson_gaussian", "update")),
        ("evaluate", "poisson", 100, ("poisson_gaussian", "evaluation")),
        ("query", "fixed_size", 100, ("fixed_size_gaussian", "query")),
        ("train", "none", 1000, ("gaussian", "update")),
    ],
)
def test_a_request_becomes_its_plan(
    kind: str, sampling: str, size: int, expected: tuple[str, str]
) -> None:
    request = schemas.JobRequest.model_construct(
        kind=kind,
        sampling=sampling,
        clients_per_round=size,
        rounds=5,
        noise_multiplier=1.0,
        algorithm=schemas.Algorithm(name="dp_fedavg"),
    )
    mechanism = plan_of(request, clients=1000).mechanism
    assert (mechanism.kind, mechanism.release) == expected


def test_weights_are_shares_of_one_delta() -> None:
    for weights in ((10**15,) * 16, (1,) * 15, (0,) * 16, (True,) * 16):
        with pytest.raises(Refused) as refusal:
            terms_of(8 * 10**9, 1e-6, weights)
        assert refusal.value.errors[0].field == "weights"
    assert terms_of(8 * 10**9, 1e-6, (10**13,) * 16).weights == (10**13,) * 16


def test_a_budget_without_any_room_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        terms_of(1000, 1e-6)
    assert refusal.value.errors[0].field == "epsilon"
