"""What moves between the question and the lock: policy and budget are compared again under it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs import admission
from kit.db import Database
from policies import ask, revisions
from policies.embedded import EmbeddedEngine
from policies.engine import Evaluation, PolicyEngine, Revision
from privacy_gateway import canonical
from privacy_gateway.errors import Refused
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market, request


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(database, engine, tmp_path)


@pytest.fixture
def small_market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    """For what cannot depend on the database."""
    return markets.open_market(sqlite_database, engine, tmp_path)


class Meddling:
    """The real engine, with something happening right after its first answers."""

    def __init__(self, engine: PolicyEngine, *acts: Callable[[], object]) -> None:
        self._engine = engine
        self._acts = list(acts)
        self.asked: list[tuple[str, bytes]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def evaluate(
        self, revision: Revision, canonical_input: bytes, deadline_seconds: float = 1.0
    ) -> Evaluation:
        self.asked.append((revision.id, canonical_input))
        answer = self._engine.evaluate(revision, canonical_input, deadline_seconds)
        if self._acts:
            self._acts.pop(0)()
        return answer


def submit(market: Market, **changes: object) -> admission.Outcome:
    return admission.submit(
        market.services, RESEARCHER, request(market.dataset_id, **changes), None
    )


def refusal(market: Market, **changes: object) -> Refused:
    with pytest.raises(Refused) as caught:
        submit(market, **changes)
    return caught.value


def decisions(market: Market) -> list[dict[str, object]]:
    with market.database.read() as session:
        return revisions.decisions(session, dataset_ids=[market.dataset_id])


def test_a_new_policy_between_question_and_lock_decides(
    market: Market, engine: EmbeddedEngine
) -> None:
    strict = markets.policy(rounds=5)
    meddling = Meddling(engine, lambda: market.activate(strict))
    refused = refusal(market.with_engine(meddling))

    assert refused.code == "policy_denied"
    assert [rule["code"] for rule in refused.facts["rules"]] == ["too_many_rounds"]
    assert market.entries("reserve") == []
    first, second = meddling.asked[:2]
    assert first[0] != second[0]
    (decision,) = decisions(market)
    assert decision["revision_id"] == second[0]


CAREFUL = """
refusals contains {
	"code": "too_much_held",
	"field": "budget",
	"message": "nobody else may hold anything",
	"limit": 0,
} if {
	input.budget.reserved_epsilon_nano > 1000000000000
}
"""


def test_a_budget_that_moved_is_asked_about_again_where_the_policy_looks_at_it(
    market: Market, engine: EmbeddedEngine
) -> None:
    market.activate(markets.policy() + CAREFUL)
    meddling = Meddling(engine, lambda: submit(market))
    outcome = submit(market.with_engine(meddling))

    assert outcome.job.status == "queued"
    (_, alone), (_, crowded) = meddling.asked
    assert json.loads(alone)["budget"]["reserved_epsilon_nano"] == 0
    assert json.loads(crowded)["budget"]["reserved_epsilon_nano"] > 0
    stored = [decision["input"] for decision in decisions(market)]
    assert sorted(document["history"]["jobs_by_subject"] for document in stored) == [0, 1]


def test_a_policy_that_cannot_see_the_difference_is_asked_once(
    small_market: Market, engine: EmbeddedEngine
) -> None:
    meddling = Meddling(engine, lambda: submit(small_market))
    outcome = submit(small_market.with_engine(meddling))

    assert len(meddling.asked) == 1
    mine = next(row for row in decisions(small_market) if row["job_id"] == outcome.job.id)
    # What is recorded is the question of the moment under the lock, not the earlier one.
    assert mine["input"]["history"]["jobs_by_subject"] == 1
    assert mine["input"]["budget"]["reserved_epsilon_nano"] > 0
    with small_market.database.read() as session:
        revision = revisions.active(session, small_market.dataset_id)
    replayed = engine.evaluate(revision, canonical.dumps(mine["input"], floats=True), 5.0)
    assert ask.judge(replayed)[0].as_dict() == mine["verdict"]


def test_a_budget_spent_between_question_and_lock_is_not_overspent(
    sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    market = markets.open_market(sqlite_database, engine, tmp_path, source=markets.policy(cap=8))
    large = {"rounds": 400}
    meddling = Meddling(engine, lambda: submit(market, **large))
    assert refusal(market.with_engine(meddling), **large).code == "budget_exceeded"
    assert len(market.entries("reserve")) == 1
