"""What never becomes active: each fault is refused over HTTP with its place and reason.

Nothing else may come of it: the policy that was active goes on deciding as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.gateway.clinic import Clinic, opened
from tests.gateway.conftest import Gateway
from tests.support.market import TESTS, policy

PLAIN = policy()
LINES = len(PLAIN.splitlines())
FAILING = TESTS + "\ntest_never if false\n"


def and_then(rule: str) -> str:
    """The clinic's policy with one more rule, two lines below its end."""
    return f"{PLAIN}\n{rule}\n"


@dataclass(frozen=True)
class Fault:
    """A text that must be refused: words of the refusal, the field, and the line it names."""

    source: str
    said: str
    field: str = "source"
    line: int | None = LINES + 2
    tests: str = TESTS


FAULTS = {
    "http.send": Fault(
        and_then('x if http.send({"url": "http://127.0.0.1", "method": "GET"})'),
        "forbidden_builtin: http.send may not be called",
    ),
    "opa.runtime": Fault(and_then("x := opa.runtime().env"), "opa.runtime may not be called"),
    "the clock": Fault(and_then("x if time.now_ns() > 1"), "time.now_ns may not be called"),
    "chance": Fault(and_then('x := rand.intn("a", 2)'), "rand.intn may not be called"),
    "a typo": Fault(
        and_then("x if input.job.noise_multipler > 1"),
        "unknown_input_path: the input has no input.job.noise_multipler"
        " (did you mean noise_multiplier?)",
    ),
    "recursion": Fault(and_then("f(x) := f(x + 1)"), "recursion: f needs itself"),
    "two defaults": Fault(
        and_then("default decision := {}"), "duplicate_default: decision has two defaults"
    ),
    "a template string": Fault(and_then('x := $"{input.job.rounds}"'), "syntax:"),
    "no tests": Fault(PLAIN, "there is no test_* rule", field="tests", line=None, tests=""),
    "a failing test": Fault(
        PLAIN, "test_never fails", field="tests", line=None, tests=FAILING
    ),
    "a forbidden call in the tests": Fault(
        PLAIN, "opa.runtime may not be called", field="tests",
        line=len(TESTS.splitlines()) + 2, tests=f"{TESTS}\ntest_env if opa.runtime()\n",
    ),
    "an unknown purpose let in": Fault(
        PLAIN.replace('input.job.purpose != "research"', 'input.job.purpose == "ads"'),
        "probe unknown_purpose", line=None,
    ),
    "an approval that nobody can give": Fault(
        PLAIN.replace('"role": "owner"', '"role": "researcher"').replace("100000\n", "1\n"),
        "no readable decision", line=None,
    ),
}  # fmt: skip


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    return opened(gateway)


def refused(clinic: Clinic, fault: Fault) -> Iterator[dict[str, Any]]:
    """The problems that an activation of the text names."""
    path = f"/v1/datasets/{clinic.dataset}/policies"
    body = {"source": fault.source, "tests": fault.tests, "reason": "faulty"}
    draft = clinic.house.ok("owner", "POST", path, json=body)
    assert draft["problems"]
    number = draft["number"]
    problem = clinic.house.refused("owner", "POST", f"{path}/{number}/activate")
    assert (problem["status"], problem["code"]) == (422, "policy_refused")
    assert clinic.house.ok("owner", "GET", f"{path}/{number}")["state"] == "draft"
    yield from problem["errors"]


def test_each_fault_is_refused_with_its_place_and_the_active_policy_stays(
    clinic: Clinic,
) -> None:
    house = clinic.house
    before = house.ok("owner", "GET", f"/v1/datasets/{clinic.dataset}/policies/1")

    for name, fault in FAULTS.items():
        place = "" if fault.line is None else f"line {fault.line}, column "
        matching = [
            error
            for error in refused(clinic, fault)
            if error["field"] == fault.field
            and fault.said in error["message"]
            and error["message"].startswith(place)
        ]
        assert matching, name

    after = house.ok("owner", "GET", f"/v1/datasets/{clinic.dataset}/policies/1")
    assert after == before
    assert after["state"] == "active"
    assert house.ok("owner", "GET", f"/v1/datasets/{clinic.dataset}")["policy"] == 1
    house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    (decision,) = house.ok("owner", "GET", "/v1/decisions")["items"]
    assert decision["outcome"] == "allow"
