"""Whatever an engine does, `ask` gives a decision, and only a plain allow is one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ask import ask
from policies.embedded import EmbeddedEngine
from policies.engine import Evaluation, Findings, Health, Revision, TestReport
from policies.errors import Fault
from tests.support.questions import ALLOW_ALL, example, question

REVISION = Revision.of_text(ALLOW_ALL)
PATIENCE = 20.0
"""Seconds; nothing here is about time."""


class Scripted:
    """An engine that answers, or raises, what it is told."""

    name = "scripted"
    version = "0"

    def __init__(self, result: Evaluation | Exception) -> None:
        self._result = result

    def check(self, source: str, tests: str = "") -> Findings:
        return Findings()

    def test(self, source: str, tests: str) -> TestReport:
        return TestReport()

    def evaluate(self, *_: Any) -> Evaluation:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def health(self) -> Health:
        return Health(True, self.name, self.version)

    def close(self) -> None:
        return None


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_is_a_recorded_denial(fault: Fault) -> None:
    decision = ask(Scripted(Evaluation(fault=fault, detail="secret path")), REVISION, question())
    assert decision.verdict.outcome == "deny"
    assert decision.fault is fault
    assert decision.code in ("policy_error", "policy_unavailable")
    assert "secret" not in decision.verdict.denials[0].message
    assert decision.detail == "secret path"


@pytest.mark.parametrize("error", [ValueError("x"), KeyError(1), RecursionError(), OSError(5)])
def test_an_engine_that_raises_is_a_denial(error: Exception) -> None:
    decision = ask(Scripted(error), REVISION, question())
    assert decision.verdict.outcome == "deny"
    assert decision.fault is Fault.INTERNAL
    assert decision.code == "policy_error"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    )
)
def test_an_arbitrary_answer_is_a_denial(answer: Any) -> None:
    decision = ask(Scripted(Evaluation(answer=answer)), REVISION, question())
    assert decision.verdict.outcome == "deny"
    assert decision.code == "policy_error"


def test_without_a_policy_nothing_is_allowed() -> None:
    answer = Evaluation(answer={"allow": True, "deny": []})
    decision = ask(Scripted(answer), None, question())
    assert decision.verdict.outcome == "deny"
    assert (decision.code, decision.fault) == ("policy_unavailable", Fault.NO_POLICY)
    assert decision.revision_id is None


def test_a_decision_can_be_repeated_to_the_byte(embedded: EmbeddedEngine) -> None:
    revision = Revision.of_text(*example("price_cap"))
    first = ask(embedded, revision, question(), deadline_seconds=PATIENCE)
    again = ask(embedded, revision, question(), deadline_seconds=PATIENCE)
    assert first.allowed
    assert first.code is None
    assert (first.digest, first.input_bytes) == (again.digest, again.input_bytes)
    assert first.revision_digest == revision.digest


def test_a_denial_by_rules_is_policy_denied(embedded: EmbeddedEngine) -> None:
    revision = Revision.of_text(*example("price_cap"))
    asked = question(job__purpose="marketing", cost__epsilon_nano=9_000_000_000)
    decision = ask(embedded, revision, asked, deadline_seconds=PATIENCE)
    assert decision.code == "policy_denied"
    assert [denial.code for denial in decision.verdict.denials] == [
        "price_above_limit",
        "purpose_not_allowed",
    ]
    assert decision.verdict.denials[0].message == "the job costs ε = 9; at most 2 is allowed"


def test_latency_is_measured() -> None:
    ticks = iter([1_000_000, 4_000_000])
    answer = Evaluation(answer={"allow": True, "deny": []})
    decision = ask(Scripted(answer), REVISION, question(), stopwatch=lambda: next(ticks))
    assert decision.latency_us == 3000
