"""Many submits at once: never one too many, and one key is one job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs import admission, quoting
from kit.db import Database
from policies.embedded import EmbeddedEngine
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


def at_once(market: Market, count: int, key: str | None, **changes: object) -> list[str]:
    """Submit `count` times from as many threads; job ids and refusal codes."""

    def one(_: int) -> str:
        try:
            wanted = request(market.dataset_id, **changes)
            return admission.submit(market.services, RESEARCHER, wanted, key).job.id
        except Refused as refused:
            return refused.code

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_budget_of_ten_jobs_admits_ten_of_a_hundred(market: Market) -> None:
    large = {"rounds": 60}
    quote = quoting.quote(market.services, RESEARCHER, request(market.dataset_id, **large))
    assert quote.how_many_more == 10

    answers = at_once(market, 100, None, **large)

    assert Counter(answers)["budget_exceeded"] == 90
    reserved = market.entries("reserve")
    assert len(reserved) == 10
    assert len(market.entries("deny")) == 90
    balance = market.balance()
    assert balance.reserved == tuple(
        sum(costs) for costs in zip(*(entry.leaf["cost"] for entry in reserved), strict=True)
    )
    assert any(held <= limit for held, limit in zip(balance.reserved, balance.limits, strict=True))


def test_fifty_identical_posts_are_one_job(market: Market) -> None:
    answers = at_once(market, 50, "the-key")
    assert len(set(answers)) == 1
    assert len(market.entries("reserve")) == 1


def test_two_bodies_race_for_one_key(market: Market) -> None:
    def one(rounds: int) -> str:
        try:
            wanted = request(market.dataset_id, rounds=rounds)
            return admission.submit(market.services, RESEARCHER, wanted, "k").job.id
        except Refused as refused:
            return refused.code

    with ThreadPoolExecutor(20) as pool:
        answers = Counter(pool.map(one, [20, 21] * 10))
    assert answers["idempotency_mismatch"] == 10
    assert len(answers) == 2
    assert len(market.entries("reserve")) == 1
