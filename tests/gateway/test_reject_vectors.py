"""Every published reject vector, put into a real request: refused, its field named, nothing spent.

The vectors are `tests/accounting/vectors.json`; a value in them is a JSON text or a few of them,
and some are described. What a vector means as a request is said here, in `TEXTS`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from privacy_gateway.canonical import loads_strict
from tests.accounting.support import VECTORS
from tests.gateway.clinic import Clinic, opened
from tests.gateway.conftest import Gateway

REJECT: list[dict[str, Any]] = VECTORS["reject"]
MARK = '"MARK"'
# What a described value stands for, as JSON texts.
TEXTS = {
    "> no_clients": ["61", "1000000000"],
    "NaN/inf/0/negative": ["NaN", "Infinity", "0", "-1.0"],
    '10.0 / "10" / true': ["10.0", '"10"', "true"],
    "PoissonSampled(q, SelfComposed(Gaussian(int 1),100))": ['"PoissonSampled"', "{}"],
}
# Where a field stands; the others are members of the request itself, known or not.
PLACES = {"clip_norm": ("algorithm", "clip_norm")}


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    return opened(gateway)


def texts(value: Any) -> list[str]:
    """The JSON texts that a vector's value stands for."""
    if not isinstance(value, str):
        return [json.dumps(value)]
    return TEXTS.get(value, [value])


def bodies(clinic: Clinic, case: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Requests that hold a vector's value, each with the field that must be named."""
    job, field = clinic.job(), case["field"]
    if field == "body":
        field = "noise_multiplier"
        if case["value"].startswith("duplicate key"):
            text = json.dumps(job)
            twice = text.replace(
                '"noise_multiplier"', '"noise_multiplier": 9.0, "noise_multiplier"'
            )
            return [(field, twice.encode())]
        job[field] = json.loads(case["value"])[field]
        return [(field, json.dumps(job).encode())]
    path = PLACES.get(field, (field,))
    target = job
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = "MARK"
    asked = json.dumps(job)
    return [(".".join(path), asked.replace(MARK, text).encode()) for text in texts(case["value"])]


def test_every_reject_vector_is_refused_by_the_name_of_its_field(clinic: Clinic) -> None:
    before, sent = clinic.budget(), 0
    for case in REJECT:
        for field, body in bodies(clinic, case):
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"bad-{sent}"}
            for path, prefix in (("/v1/jobs", ""), ("/v1/quotes", "job.")):
                asked = body if not prefix else b'{"job": ' + body + b"}"
                problem = clinic.house.refused(
                    "researcher", "POST", path, content=asked, headers=headers
                )
                assert problem["status"] == 422, (case, problem)
                named = {str(error["field"]) for error in problem["errors"]}
                # The name of a choice between types may follow the field's.
                told = any(name.startswith((field, prefix + field)) for name in named)
                assert told, (case, path, named)
            sent += 1
    assert sent >= len(REJECT) == 24
    assert clinic.budget() == before
    assert clinic.house.ok("auditor", "GET", "/v1/ledger?kind=reserve")["items"] == []


@pytest.mark.parametrize("text", ["NaN", "2.0", "0", "-1e-9", "1e400", "true", '"1e-6"'])
def test_a_delta_that_is_none_opens_no_budget(gateway: Gateway, text: str) -> None:
    """A job names no δ; a population does."""
    body = json.dumps({"name": "p", "clients": 100, "epsilon": 2.0, "delta": "MARK"})
    problem = gateway.refused(
        "owner",
        "POST",
        "/v1/populations",
        content=body.replace(MARK, text).encode(),
        headers={"Content-Type": "application/json", "Idempotency-Key": "bad"},
    )
    assert "delta" in {error["field"] for error in problem["errors"]}


def test_the_bodies_hold_what_the_vectors_say(clinic: Clinic) -> None:
    """A request without the vector's value passes the parser: the value alone is refused."""
    assert loads_strict(json.dumps(clinic.job()).encode())["rounds"] == 4
    for case in REJECT:
        assert bodies(clinic, case), case
