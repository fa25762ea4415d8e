"""What a refused plan says of the number at fault, and all that a good one hands to the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from accounting.mechanism import Mechanism, check_count, check_number, update_noise
from accounting.plan import TrainingPlan, plan_of
from privacy_gateway import schemas
from tests.accounting.support import refusal_of


def _plan(**changes: Any) -> TrainingPlan:
    good = {
        "population_clients": 1000, "clients_per_round": 100, "rounds": 20, "noise_multiplier": 1.0,
    }  # fmt: skip
    return TrainingPlan(**(good | changes))


def _ftrl(**changes: Any) -> TrainingPlan:
    return _plan(**({"algorithm": "dp_ftrl", "sampling": "none"} | changes))


def _banded(**changes: Any) -> TrainingPlan:
    return _ftrl(**({"sampling": "poisson", "bands": 4} | changes))


def _matrix(**changes: Any) -> Mechanism:
    good = {"clients": 100, "clients_per_round": 25, "steps": 10, "bands": 4}
    return Mechanism("banded_gaussian", 1.0, **(good | changes))


SAID: list[tuple[str, Any, Any, Callable[[], object]]] = [
    ("x", "'5'", None, lambda: check_count("x", "5", 9)),
    ("x", "True", None, lambda: check_count("x", True, 9)),
    ("x", 0, 9, lambda: check_count("x", 0, 9)),
    ("x", 10, 9, lambda: check_count("x", 10, 9)),
    ("x", "'" + "y" * 79, None, lambda: check_number("x", "y" * 99, 1.0, 2.0)),
    ("x", "2.5", 2.0, lambda: check_number("x", 2.5, 1.0, 2.0)),
    ("x", "nan", 2.0, lambda: check_number("x", math.nan, 1.0, 2.0)),
    ("x", "1" + "0" * 79, 2.0, lambda: check_number("x", 10**400, 1.0, 2.0)),
    ("x", "-1" + "0" * 78, 2.0, lambda: check_number("x", -(10**400), 1.0, 2.0)),
    ("noise_multiplier", 2.0, 2.0, lambda: update_noise(2.0, 1.0)),
    ("mechanism", None, None, lambda: Mechanism("public_data", 1.0)),
    ("bands", 11, 10, lambda: _matrix(bands=11)),
    ("clients_per_round", 26, 25, lambda: _matrix(clients_per_round=26)),
    ("clients_per_round", 26, 25, lambda: _matrix(clients=103, clients_per_round=26)),
    ("sampling", "shuffled", None, lambda: _plan(sampling="shuffled")),
    ("cohort", "guessed", None, lambda: _plan(cohort="guessed")),
    ("bands", 4, None, lambda: _plan(bands=4)),
    ("clients_per_round", 100, 1000, lambda: _plan(sampling="none")),
    ("clients_per_round", 1001, 1000, lambda: _plan(sampling="none", clients_per_round=1001)),
    ("algorithm.clip_norm", None, None, lambda: _plan(sampling="fixed_size", clip_norm=None)),
    ("noise_multiplier", 10.0, 10.0, lambda: _plan(clip_norm=None, noise_multiplier=10.0)),
    ("algorithm.clip_norm", None, None, lambda: _ftrl(clip_norm=None)),
    ("sampling", "poisson", None, lambda: _ftrl(sampling="poisson")),
    ("sampling", None, None, lambda: _banded(sampling="fixed_size")),
    ("sampling", None, None, lambda: _banded(cohort="visible")),
    ("bands", 21, 20, lambda: _banded(bands=21)),
    ("clients_per_round", 251, 250, lambda: _banded(clients_per_round=251)),
]


@pytest.mark.parametrize(("field", "value", "limit", "act"), SAID)
def test_a_refusal_names_field_value_and_limit(
    field: str, value: Any, limit: Any, act: Callable[[], object]
) -> None:
    refusal = refusal_of(act)
    assert refusal is not None
    assert refusal.code == "invalid_request"
    (error,) = refusal.errors
    assert (error.field, error.value, error.limit) == (field, value, limit)


def test_the_last_number_that_is_allowed_is_allowed() -> None:
    assert check_count("x", 1, 1) == 1
    assert _matrix(clients_per_round=25).bands == 4
    assert _matrix(bands=10, clients_per_round=10).participations == 1
    assert _banded(clients_per_round=250).charge_units == 1
    assert _plan(sampling="none", clients_per_round=1000).mechanism.kind == "gaussian"
    assert Mechanism("public_data", 1.0, release="evaluation").canonical() == {
        "kind": "public_data", "release": "evaluation",
    }  # fmt: skip


COMMON = {
    "rounds": 20, "clients": 1000, "clients_per_round": 100, "sampling": "poisson",
    "sampling_rate": 0.1, "denominator": 100, "noise_multiplier": 1.0, "clip_norm": 1.0,
    "clip_count_noise": None,
}  # fmt: skip
ADAPTIVE = {
    "clip_norm": None, "clip_count_noise": 5.0, "noise_multiplier": update_noise(1.0, 5.0),
    "initial_clip_norm": 0.1, "clip_quantile": 0.5, "clip_learning_rate": 0.2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (_plan(), COMMON),
        (_banded(), COMMON),
        (_ftrl(), COMMON | {"sampling": "none", "tree_rounds": 10}),
        (_plan(clip_norm=None), COMMON | ADAPTIVE),
    ],
)
def test_the_engine_gets_these_numbers_and_no_others(
    plan: TrainingPlan, expected: dict[str, Any]
) -> None:
    assert plan.engine_parameters() == expected


def test_a_changed_plan_differs_in_that_number_alone() -> None:
    plan = _plan(sampling="fixed_size", clip_norm=2.0)
    assert plan.changed() == plan
    moves: list[dict[str, Any]] = [
        {"rounds": 7}, {"noise_multiplier": 3.5}, {"clients_per_round": 9},
    ]  # fmt: skip
    for move in moves:
        assert plan.changed(**move) == _plan(sampling="fixed_size", clip_norm=2.0, **move)


@pytest.mark.parametrize("clip_norm", ["adaptive", 2.0])
@pytest.mark.parametrize("split", ["clients", "public_test"])
def test_every_number_of_a_request_reaches_its_plan(split: str, clip_norm: Any) -> None:
    asked: dict[str, Any] = {
        "kind": "evaluate", "sampling": "poisson", "clients_per_round": 100, "rounds": 20,
        "noise_multiplier": 1.0, "split": split,
        "algorithm": schemas.Algorithm(name="dp_fedsgd", clip_norm=clip_norm),
    }  # fmt: skip
    request = schemas.JobRequest.model_construct(**asked)
    assert plan_of(request, clients=1000) == _plan(
        clip_norm=None if clip_norm == "adaptive" else 2.0,
        algorithm="dp_fedsgd",
        release="evaluation",
        public=split == "public_test",
    )
    seen = plan_of(request, clients=1000, cohort="visible")
    assert (seen.cohort, seen.mechanism.clients_per_round) == (
        "visible", 1000 if split == "clients" and clip_norm == "adaptive" else 0,
    )  # fmt: skip
