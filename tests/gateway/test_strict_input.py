"""Bad input is refused by type, at once, naming its field, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.gateway.clinic import FEATURES, Clinic, opened
from tests.gateway.conftest import Gateway

# Measured: hundredths. What a bomb would take has no bound.
BOMB_SECONDS = 5.0
DENSE = {"type": "Dense", "units": 2, "activation": "softmax"}


def _layers(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"shape": [FEATURES]}, "layers": list(layers)}


def _text(clinic: Clinic, old: str, new: str) -> bytes:
    """The request as text, with a piece of it replaced: for what no JSON writer would write."""
    text = json.dumps(clinic.job())
    assert old in text
    return text.replace(old, new, 1).encode()


RAW = [
    ('"noise_multiplier": 2.0', '"noise_multiplier": NaN', "noise_multiplier"),
    ('"noise_multiplier": 2.0', '"noise_multiplier": Infinity', "noise_multiplier"),
    ('"noise_multiplier": 2.0', '"noise_multiplier": -Infinity', "noise_multiplier"),
    ('"noise_multiplier": 2.0', '"noise_multiplier": 1e400', "noise_multiplier"),
    ('"rounds": 4', '"rounds": 10.0', "rounds"),
    ('"rounds": 4', '"rounds": 1e1', "rounds"),
    ('"rounds": 4', '"rounds": 99999999999999999999999', "rounds"),
    ('"rounds": 4', '"rounds": 4, "rounds": 5', "rounds"),
    ('"rounds": 4', '"rounds": 4,', "body"),
    ('"rounds": 4', f'"rounds": {"[" * 60}{"]" * 60}', "body"),
]

CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"rounds": "10"}, "rounds"),
    ({"rounds": True}, "rounds"),
    ({"rounds": 0}, "rounds"),
    ({"rounds": None}, "rounds"),
    ({"rounds": 10**7}, "rounds"),
    ({"clients_per_round": "10"}, "clients_per_round"),
    ({"clients_per_round": True}, "clients_per_round"),
    ({"clients_per_round": 10.0}, "clients_per_round"),
    ({"clients_per_round": 61}, "clients_per_round"),
    ({"noise_multiplier": "1.0"}, "noise_multiplier"),
    ({"noise_multiplier": True}, "noise_multiplier"),
    ({"noise_multiplier": 0.0}, "noise_multiplier"),
    ({"noise_multiplier": -1.0}, "noise_multiplier"),
    ({"algorithm__clip_norm": 0.0}, "algorithm.clip_norm"),
    ({"algorithm__clip_norm": True}, "algorithm.clip_norm"),
    ({"algorithm__local_epochs": 1.0}, "algorithm.local_epochs"),
    ({"algorithm__momentum": 0.9}, "algorithm.momentum"),
    ({"algorithm__aggregator": "krum"}, "algorithm.aggregator"),
    ({"algorithm__aggregator": "coordinate_median"}, "algorithm.aggregator"),
    ({"algorithm__aggregator": "mean"}, "algorithm.aggregator"),
    ({"epsilon": 1.0}, "epsilon"),
    ({"delta": 1e-5}, "delta"),
    ({"seed": 7}, "seed"),
    ({"algorithm__seed": 7}, "algorithm.seed"),
    ({"code": "print()"}, "code"),
    ({"sampling": "shuffle"}, "sampling"),
    ({"outputs": []}, "outputs"),
    ({"outputs": ["gradients"]}, "outputs[0]"),
    ({"purpose": "a\x00b"}, "purpose"),
    ({"model": {}}, "model.architecture"),
    ({"model__architecture": _layers()}, "model.architecture.layers"),
    ({"model__architecture": _layers({"type": "Lambda"}, DENSE)}, "model.architecture.layers[0]"),
    (
        {"model__architecture": _layers({"type": "BatchNormalization"}, DENSE)},
        "model.architecture.layers[0]",
    ),
    (
        {"model__architecture": _layers({"type": "Dense", "units": 2**28}, DENSE)},
        "model.architecture.layers[0]",
    ),
    (
        {"model__architecture": _layers({**DENSE, "seed": 3})},
        "model.architecture.layers[0]",
    ),
]


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    return opened(gateway)


def _refuse(clinic: Clinic, path: str, body: bytes) -> tuple[dict[str, Any], float]:
    """The refusal, and the processor's seconds for it here, where the gateway runs too."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": "bad"}
    used = time.process_time()
    problem = clinic.house.refused("researcher", "POST", path, content=body, headers=headers)
    return problem, time.process_time() - used


def _names_field(problem: dict[str, Any], field: str) -> bool:
    return any(str(error["field"]).startswith(field) for error in problem["errors"])


def test_texts_that_parsers_disagree_on_are_refused(clinic: Clinic) -> None:
    before = clinic.budget()
    for old, new, field in RAW:
        problem, seconds = _refuse(clinic, "/v1/jobs", _text(clinic, old, new))
        assert problem["code"] == "invalid_request", (new, problem)
        assert _names_field(problem, field), (new, problem)
        assert seconds < BOMB_SECONDS, new
    assert clinic.budget() == before


def test_wrong_values_are_refused_by_the_name_of_their_field(clinic: Clinic) -> None:
    before = clinic.budget()
    for changes, field in CHANGED:
        body = json.dumps(clinic.job(**changes)).encode()
        problem, seconds = _refuse(clinic, "/v1/jobs", body)
        assert problem["status"] == 422, (changes, problem)
        assert problem["code"] in {"invalid_request", "model_refused"}, (changes, problem)
        assert _names_field(problem, field), (changes, problem)
        assert seconds < BOMB_SECONDS, changes
    assert clinic.budget() == before
    assert clinic.house.ok("auditor", "GET", "/v1/ledger?kind=reserve")["items"] == []


def test_a_quote_is_as_strict_and_names_the_same_field_below_job(clinic: Clinic) -> None:
    for changes, field in (({"rounds": "10"}, "job.rounds"), ({"epsilon": 1.0}, "job.epsilon")):
        body = json.dumps({"job": clinic.job(**changes)}).encode()
        problem, _ = _refuse(clinic, "/v1/quotes", body)
        assert _names_field(problem, field), problem


@pytest.mark.parametrize(
    ("body", "headers", "status", "field"),
    [
        (b"", {"Content-Type": "application/json"}, 422, "body"),
        (b"\xff\xfe", {"Content-Type": "application/json"}, 422, "body"),
        (b"[]", {"Content-Type": "application/json"}, 422, "body"),
        (b"{}", {"Content-Type": "text/plain"}, 422, "content-type"),
        (b'"' + b"x" * 2_000_000 + b'"', {"Content-Type": "application/json"}, 413, None),
    ],
)
def test_bodies_that_are_no_request(
    gateway: Gateway, body: bytes, headers: dict[str, str], status: int, field: str | None
) -> None:
    problem = gateway.refused("researcher", "POST", "/v1/jobs", content=body, headers=headers)

    assert problem["status"] == status
    if field is not None:
        assert _names_field(problem, field), problem


def test_a_body_without_declared_length_is_cut_off(gateway: Gateway) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b'"' + b"x" * 65_536

    problem = gateway.refused(
        "researcher",
        "POST",
        "/v1/jobs",
        content=endless(),
        headers={"Content-Type": "application/json"},
    )

    assert (problem["status"], problem["code"]) == (413, "too_large")


def test_nothing_is_read_from_a_stranger(gateway: Gateway) -> None:
    problem = gateway.refused(
        None, "POST", "/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}
    )

    assert problem["code"] == "unauthenticated"


def test_the_gateway_never_imports_tensorflow() -> None:
    program = (
        "import sys, gateway.app, gateway.supervisor, gateway.cli.main\n"
        "heavy = {'tensorflow', 'keras', 'worker'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    path = os.pathsep.join(sys.path)

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )

    assert done.stdout.strip() == "[]", done.stderr
