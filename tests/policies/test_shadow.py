"""A second engine beside the first: equal answers pass, anything else denies and alarms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from policies.activation import examine
from policies.ask import ask
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.errors import Fault
from policies.opa import OpaEngine
from policies.shadow import ShadowEngine
from tests.support.questions import example, question

PATIENCE = 60.0
# To one engine a text cannot be walked over, in the other nothing is found there.
DIVIDED = Revision.of_text(
    "package p\n\n"
    "deny contains 1 if {\n\tsome letter in input.job.purpose\n\tletter\n}\n\n"
    'decision := {"allow": true, "deny": deny}\n'
)


@pytest.fixture
def shadowed(embedded: EmbeddedEngine, opa: OpaEngine) -> ShadowEngine:
    """OPA decides, the embedded engine is compared; the fixtures close them."""
    return ShadowEngine(opa, embedded)


def test_equal_answers_are_the_first_engines(shadowed: ShadowEngine, opa: OpaEngine) -> None:
    revision = Revision.of_text(*example("price_cap"))
    for asked in (question(), question(cost__epsilon_nano=10**10)):
        decision = ask(shadowed, revision, asked, deadline_seconds=PATIENCE)
        alone = ask(opa, revision, asked, deadline_seconds=PATIENCE)
        assert decision.digest == alone.digest
        assert decision.engine == "opa"
        assert "regorus" in decision.engine_version


def test_a_difference_denies_and_alarms(shadowed: ShadowEngine, opa: OpaEngine) -> None:
    assert ask(opa, DIVIDED, question(), deadline_seconds=PATIENCE).allowed
    with capture_logs() as logs:
        decision = ask(shadowed, DIVIDED, question(), deadline_seconds=PATIENCE)
    assert decision.verdict.outcome == "deny"
    assert decision.fault is Fault.DISAGREEMENT
    assert decision.code == "policy_error"
    assert "opa: " in decision.detail
    assert "embedded: evaluation_failed" in decision.detail
    (alarm,) = [entry for entry in logs if entry["event"] == "policy_engines_disagree"]
    assert alarm["log_level"] == "error"
    assert alarm["digest"] == DIVIDED.digest


@pytest.fixture
def down() -> Iterator[OpaEngine]:
    """A server that is not there."""
    engine = OpaEngine("http://127.0.0.1:9")
    yield engine
    engine.close()


@pytest.mark.parametrize("first", [True, False])
def test_an_engine_that_is_down_is_no_disagreement(
    embedded: EmbeddedEngine, down: OpaEngine, first: bool
) -> None:
    engines = (down, embedded) if first else (embedded, down)
    shadowed = ShadowEngine(*engines)
    revision = Revision.of_text(*example("price_cap"))
    decision = ask(shadowed, revision, question(), deadline_seconds=PATIENCE)
    assert decision.code == "policy_unavailable"
    assert not shadowed.health().ok


def test_a_divided_policy_does_not_become_active(
    shadowed: ShadowEngine, embedded: EmbeddedEngine
) -> None:
    divided = Revision.of_text(DIVIDED.source, "package t\n\ntest_yes if true\n")
    with capture_logs() as logs:
        examined = examine([shadowed, embedded], divided)
    assert any("embedded: evaluation_failed" in problem.message for problem in examined.problems)
    assert not [entry for entry in logs if entry["event"] == "policy_engines_disagree"]
    sound = Revision.of_text(*example("price_cap"))
    assert examine([shadowed, embedded], sound).passed
