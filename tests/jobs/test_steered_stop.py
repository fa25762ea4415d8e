"""A policy that stops a job because of what else its researcher asks is no word of the owner's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import admission, blocks, lifecycle, rounds
from jobs.rounds import Claim
from jobs.tables import Job
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import RESEARCHER, Market

# The owner is asked as soon as more than this has been spent or reserved.
_LIMIT = 3 * 10**9
ASKED_ABOVE = support.policy().replace(
    "input.job.rounds > 100000", f"input.cost.budget_epsilon_nano_after > {_LIMIT}"
)


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    assert str(_LIMIT) in ASKED_ABOVE
    return support.open_market(database, engine, tmp_path, source=ASKED_ABOVE)


def submitted(market: Market) -> Job:
    request = support.request(market.dataset_id)
    view = admission.submit(market.services, RESEARCHER, request, None).job
    with market.database.read() as session:
        return session.get_one(Job, view.id)


def claimed(market: Market, job_id: str) -> Claim:
    with market.database.unit_of_work() as session:
        held = rounds.claim(session, job_id, worker="w", lease_seconds=60, now=market.clock())
    assert held is not None
    return held


def returned(market: Market, reason: str) -> Job:
    """A job of 20 rounds that came back to the queue after its first block was charged."""
    job = submitted(market)
    assert job.status == "queued"
    held = claimed(market, job.id)
    assert blocks.next_block(market.services, held) == rounds.Block(1, 5)
    with market.database.unit_of_work() as session:
        rounds.release(session, held, reason=reason, now=market.clock())
    return job


def ended(market: Market, job: Job) -> Job:
    assert blocks.next_block(market.services, claimed(market, job.id)) is None
    with market.database.read() as session:
        return session.get_one(Job, job.id)


@pytest.mark.parametrize(("reason", "paid"), [("attempt_failed", 20), ("worker_lost", 5)])
def test_who_has_the_policy_stop_a_job_that_failed_pays_as_for_a_cancel(
    market: Market, reason: str, paid: int
) -> None:
    job = returned(market, reason)
    other = submitted(market)  # reserves, and is asked about: so the first one would be, too
    assert other.status == "awaiting_approval"
    done = ended(market, job)
    assert (done.status, done.rounds_charged) == ("stopped_by_policy", paid)
    lifecycle.cancel(market.services, RESEARCHER, other.id)
    per_round = market.entries("reserve")[0].leaf["per_round"]
    assert list(market.balance().charged) == [paid * part for part in per_round]
    assert set(market.balance().reserved) == {0}


def test_an_owner_who_stops_it_by_another_policy_gives_the_rest_back(market: Market) -> None:
    job = returned(market, "attempt_failed")
    market.activate(support.policy(rounds=1))
    done = ended(market, job)
    assert (done.status, done.rounds_charged) == ("stopped_by_policy", 5)
