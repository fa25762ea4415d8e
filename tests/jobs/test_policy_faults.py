"""Nothing fails open: whatever goes wrong with a policy is a recorded denial with its own code.

The broken texts never pass an examination; they are put into the table as an operator's slip or an
older version might have left them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway import schema
from gateway.observe import Metrics
from jobs import admission
from kit.db import Database
from policies import revisions
from policies.embedded import EmbeddedEngine
from policies.engine import PolicyEngine
from policies.opa import OpaEngine
from privacy_gateway.errors import Refused
from tests.support import market as markets
from tests.support.engines import ENDLESS_SECONDS, embedded, opa, opa_url
from tests.support.market import RESEARCHER, Market, let_decide, policy, request

__all__ = ["embedded", "opa", "opa_url"]

DEADLINE_SECONDS = 0.5
# For every other fault; a busy machine may be late for half a second, and that is another fault.
PATIENCE_SECONDS = 5.0
N = "numbers.range(1, 3000)"
LOGS = '{"type": "outputs", "value": ["logs"]}'

WRITTEN = [
    ("undefined", "x := 1", "undefined"),
    ("undefined for this job", "decision if input.job.rounds > 100000", "undefined"),
    ("the text of undefined", 'decision := "<undefined>"', "undefined"),
    (
        "undefined inside",
        'decision := {"allow": true, "deny": set(), "approvals": ["<undefined>"]}',
        "undefined",
    ),
    ("null", "decision := null", "undefined"),
    ("a boolean", "decision := true", "malformed"),
    ("allow is a text", 'decision := {"allow": "true", "deny": set()}', "malformed"),
    ("allow is a number", 'decision := {"allow": 1, "deny": set()}', "malformed"),
    ("deny is an object", 'decision := {"allow": true, "deny": {"a": 1}}', "malformed"),
    ("deny is missing", 'decision := {"allow": true}', "malformed"),
    ("an unknown member", 'decision := {"allow": true, "deny": set(), "always": 1}', "malformed"),
    (
        "an unknown obligation",
        'decision := {"allow": true, "deny": set(), "obligations": {{"type": "pray", "value": 1}}}',
        "unknown_obligation",
    ),
    (
        "an unknown output",
        f'decision := {{"allow": true, "deny": set(), "obligations": {{{LOGS}}}}}',
        "unknown_obligation",
    ),
    ("conflicting rules", "decision := 1\n\ndecision := 2", "evaluation_failed"),
    ("a garbage moment", 'decision := time.parse_rfc3339_ns("soon")', "evaluation_failed"),
    ("no syntax", "decision := {", "evaluation_failed"),
    ("an unknown function", "decision := no_such_function(1)", "evaluation_failed"),
    (
        "never done",
        f"decision := count([1 | some a in {N}; some b in {N}; some c in {N}; a + b + c == 0])",
        "timeout",
    ),
]
UNAVAILABLE = {"timeout", "unreachable", "no_policy", "stale_revision"}


@pytest.fixture(params=["embedded", "opa"])
def engine(request: pytest.FixtureRequest) -> PolicyEngine:
    found: EmbeddedEngine | OpaEngine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def market(embedded: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """One for all: each test puts its own policy in force."""
    folder = tmp_path_factory.mktemp("market")
    database = Database(f"sqlite:///{folder / 'market.sqlite3'}")
    schema.upgrade(database)
    yield markets.open_market(database, embedded, folder)
    database.close()


def behind(market: Market, engine: PolicyEngine, seconds: float = PATIENCE_SECONDS) -> Market:
    """The market with this engine, which gets so long."""
    found = market.with_engine(engine)
    settings = found.services.settings.model_copy(update={"policy_deadline_seconds": seconds})
    return replace(found, services=replace(found.services, settings=settings))


def refusal(market: Market, **changes: object) -> Refused:
    with pytest.raises(Refused) as caught:
        admission.submit(market.services, RESEARCHER, request(market.dataset_id, **changes), None)
    return caught.value


def last_decision(market: Market) -> dict[str, Any]:
    with market.database.read() as session:
        return revisions.decisions(session, dataset_ids=[market.dataset_id])[-1]


@pytest.mark.parametrize(
    ("rule", "fault"),
    [pytest.param(rule, fault, id=name) for name, rule, fault in WRITTEN],
)
def test_a_policy_that_gives_no_decision_denies_and_is_recorded(
    market: Market, engine: PolicyEngine, rule: str, fault: str
) -> None:
    late = fault == "timeout"
    asked = behind(market, engine, DEADLINE_SECONDS if late else PATIENCE_SECONDS)
    let_decide(market, f"package p\n\n{rule}\n")
    before = market.balance()
    started = time.monotonic()
    refused = refusal(asked)
    assert time.monotonic() - started < ENDLESS_SECONDS
    assert refused.code == ("policy_unavailable" if fault in UNAVAILABLE else "policy_error")
    recorded = last_decision(market)
    assert (recorded["outcome"], recorded["code"]) == ("deny", refused.code)
    assert recorded["fault"] == fault
    assert recorded["engine"] == engine.name
    assert refused.facts["decision"] == recorded["id"]
    after = market.balance()
    assert (after.charged, after.reserved) == (before.charged, before.reserved)


def test_after_a_fault_the_next_decision_works(market: Market, engine: PolicyEngine) -> None:
    asked = behind(market, engine)
    let_decide(market, "package p\n\nf(x) := f(x + 1)\n\ndecision := f(1)\n")
    assert refusal(asked).code in ("policy_error", "policy_unavailable")
    let_decide(market, policy())
    generous = market.with_engine(engine)
    wanted = request(market.dataset_id)
    assert admission.submit(generous.services, RESEARCHER, wanted, None).job.status == "queued"


def faults_counted(market: Market) -> dict[str, int]:
    """What an operator's metrics say about faults of policies."""
    text = Metrics(market.database).text().decode()
    found = re.findall(r'^privacy_gateway_policy_faults\{fault="(\w+)"\} (\d+)', text, re.MULTILINE)
    return {fault: int(number) for fault, number in found}


@pytest.fixture
def down() -> Iterator[OpaEngine]:
    engine = OpaEngine("http://127.0.0.1:9")
    yield engine
    engine.close()


def test_an_engine_that_is_not_there_denies_and_is_recorded(
    market: Market, down: OpaEngine
) -> None:
    let_decide(market, policy())
    before = faults_counted(market)
    assert refusal(behind(market, down)).code == "policy_unavailable"
    assert last_decision(market)["fault"] == "unreachable"
    after = faults_counted(market)
    assert after.pop("unreachable") == before.pop("unreachable") + 1
    assert after == before
    assert after["disagreement"] == 0


def test_a_server_that_waits_for_its_bundle_denies_and_is_recorded(
    market: Market, opa_url: str
) -> None:
    let_decide(market, policy())
    engine = OpaEngine(opa_url, bundled=True)
    try:
        assert refusal(behind(market, engine)).code == "policy_unavailable"
    finally:
        engine.close()
    assert last_decision(market)["fault"] == "stale_revision"
