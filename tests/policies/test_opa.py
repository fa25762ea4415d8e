"""The OPA engine against a real server, and against servers that misbehave."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from policies.engine import Revision
from policies.errors import Fault
from policies.opa import OpaEngine
from policies.publication import publication
from tests.support.engines import ENDLESS_SECONDS, opa_server
from tests.support.questions import ALLOW_ALL, example, question

OPEN = Revision.of_text(ALLOW_ALL)
PATIENCE = 20.0
"""Seconds, for what is not about time."""


def broken(handler: httpx.MockTransport) -> OpaEngine:
    """An engine whose server is the handler."""
    return OpaEngine("http://opa.test", transport=handler)


def test_health_tells_the_version(opa: OpaEngine) -> None:
    health = opa.health()
    assert health.ok
    assert health.version.startswith("opa 1.")


def test_a_revision_is_published_when_first_asked(opa: OpaEngine) -> None:
    revision = Revision.of_text(ALLOW_ALL + "\nfirst_asked := true\n")
    answer = opa.evaluate(revision, question().canonical, PATIENCE).answer
    assert answer == {"allow": True, "deny": []}


def test_a_restarted_server_is_filled_again(
    opa_binary: str, tmp_path: Path, free_port: int
) -> None:
    engine = OpaEngine(f"http://127.0.0.1:{free_port}")
    for _ in range(2):
        with opa_server(opa_binary, tmp_path, free_port):
            assert engine.evaluate(OPEN, question().canonical, PATIENCE).fault is None
        assert engine.evaluate(OPEN, question().canonical).fault is Fault.UNREACHABLE
        assert not engine.health().ok
    engine.close()


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ('decision := time.parse_rfc3339_ns("garbage")', Fault.EVALUATION_FAILED),
        ("decision := 1\n\ndecision := 2", Fault.EVALUATION_FAILED),
        ("f(x) := f(x + 1)\n\ndecision := f(1)", Fault.EVALUATION_FAILED),
        ("decision := {", Fault.EVALUATION_FAILED),
        ("decision := no_such_function(1)", Fault.EVALUATION_FAILED),
        ("x := 1", Fault.UNDEFINED),
        ("decision if input.job.rounds > 1000", Fault.UNDEFINED),
    ],
)
def test_a_bad_policy_is_a_fault_and_the_next_decision_works(
    opa: OpaEngine, rule: str, fault: Fault
) -> None:
    revision = Revision.of_text(f"package p\n\n{rule}\n")
    assert opa.evaluate(revision, question().canonical, PATIENCE).fault is fault
    assert opa.evaluate(OPEN, question().canonical, PATIENCE).fault is None


def test_an_endless_policy_ends_at_the_deadline(opa: OpaEngine) -> None:
    numbers = "numbers.range(1, 3000)"
    bomb = Revision.of_text(
        f"package p\n\ndecision := count([1 | some a in {numbers}; some b in {numbers};"
        f" some c in {numbers}; a + b + c == 0])\n"
    )
    opa.evaluate(bomb, question().canonical, 0.2)
    started = time.monotonic()
    assert opa.evaluate(bomb, question().canonical, 0.5).fault is Fault.TIMEOUT
    assert time.monotonic() - started < ENDLESS_SECONDS
    assert opa.evaluate(OPEN, question().canonical, PATIENCE).fault is None


def test_compile_errors_have_the_owners_line(opa: OpaEngine) -> None:
    findings = opa.check("package p\n\ndecision := {}\n\nx := y\n").errors
    assert findings[0].line == 5
    assert findings[0].module == "policy"


def test_checks_and_tests_leave_nothing_behind(opa: OpaEngine, opa_url: str) -> None:
    source, tests = example("price_cap")
    assert opa.check(source, tests).clean
    assert opa.test(source, tests).passed
    modules = httpx.get(f"{opa_url}/v1/policies", trust_env=False).json()["result"]
    assert not [module["id"] for module in modules if module["id"].startswith("tests/")]


def test_a_failing_test_is_named(opa: OpaEngine) -> None:
    report = opa.test(ALLOW_ALL, "package open_test\n\ntest_no if 1 == 2\n\ntest_yes if true\n")
    assert [result.name for result in report.failed] == ["test_no"]
    assert not report.passed


def test_an_answer_of_another_revision_is_stale() -> None:
    stale = {"result": {"revision": "0" * 64, "decision": {"allow": True, "deny": []}}}
    engine = broken(httpx.MockTransport(lambda _: httpx.Response(200, json=stale)))
    assert engine.evaluate(OPEN, b"{}").fault is Fault.STALE_REVISION


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (httpx.Response(200, content=b"<html>"), Fault.MALFORMED),
        (httpx.Response(200, content=b'{"result": NaN}'), Fault.MALFORMED),
        (httpx.Response(200, content=b"[]"), Fault.MALFORMED),
        (httpx.Response(200, content=b'{"a": 1, "a": 2}'), Fault.MALFORMED),
        (httpx.Response(200, json={"result": True}), Fault.STALE_REVISION),
        (httpx.Response(401, json={"code": "unauthorized"}), Fault.UNREACHABLE),
        (httpx.Response(500, json={"code": "internal_error"}), Fault.EVALUATION_FAILED),
        (httpx.Response(503, json={}), Fault.UNREACHABLE),
        (httpx.Response(404, json={}), Fault.UNREACHABLE),
    ],
)
def test_a_strange_server_is_a_fault(response: httpx.Response, fault: Fault) -> None:
    engine = broken(httpx.MockTransport(lambda _: response))
    assert engine.evaluate(OPEN, b"{}").fault is fault


def test_an_old_server_is_not_asked() -> None:
    old = {"provenance": {"version": "1.20.1"}}
    engine = broken(httpx.MockTransport(lambda _: httpx.Response(200, json=old)))
    assert engine.evaluate(OPEN, b"{}").fault is Fault.UNREACHABLE
    assert "too old" in engine.health().detail


def test_every_question_is_strict_and_carries_the_token() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        envelope = {"revision": publication(OPEN.source).digest, "decision": {}}
        return httpx.Response(200, json={"result": envelope})

    engine = OpaEngine("http://opa.test", "secret", transport=httpx.MockTransport(answer))
    assert engine.evaluate(OPEN, b'{"job":1}').answer == {}
    (request,) = seen
    assert request.url.params["strict-builtin-errors"] == "true"
    assert request.url.params["provenance"] == "true"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.content == b'{"input":{"job":1}}'
