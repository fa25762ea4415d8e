"""What an owner, a researcher or a policy says while a job runs holds from the next block."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from accounting import ledger
from jobs import (
    events,
    lifecycle,
    quoting,
)
from kit.db import Database
from kit.ragged_subset import Subset
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import OWNER, RESEARCHER, Market
from tests.support.trainer import Stable
from tests.worker.coordinated import (
    assert_settled,
    job,
    keeping_groups_apart,
    releases,
    run,
    submit,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    public = {"test_store_path": "public", "test_examples": 20}
    return support.open_market(database, engine, tmp_path, dataset=public)


def test_an_owner_can_oblige_to_one_sandbox_for_each_group_of_people(market: Market) -> None:
    straight = submit(market, rounds=3)
    run(market, straight, Stable())
    market.activate(keeping_groups_apart())
    apart = submit(market, rounds=3)
    stable = Stable()
    assert run(market, apart, stable) == "ended"

    largest = market.services.settings.isolation_group_clients
    groups = [store for store in stable.stores if store is not None]
    assert len(groups) > 3
    for group, trainer in zip(groups, (t for t in stable.made if t.rounds), strict=True):
        assert isinstance(group, Subset)
        assert len(group.clients) <= largest
        # Each sandbox computes one part of one round, and is asked for its own people alone.
        (asked,) = trainer.cohorts
        np.testing.assert_array_equal(asked, group.clients)
    released = [[row.digest for row in releases(market, job)] for job in (straight, apart)]
    assert released[0] == released[1]


def test_an_obligation_that_comes_while_a_job_runs_holds_from_the_next_block(
    market: Market,
) -> None:
    job_id = submit(market, rounds=7)

    def tighten(round_number: int) -> None:
        if round_number == 1:
            market.activate(keeping_groups_apart())

    stable = Stable(tighten)
    assert run(market, job_id, stable) == "ended"
    first, *later = [store for store in stable.stores if store is not None]
    assert not isinstance(first, Subset)
    assert later
    assert all(isinstance(store, Subset) for store in later)
    # Nobody knows how long rounds take now; the word itself decides what is handed out in the end.
    assert [entry.rounds for entry in market.entries("charge")] == [5, 1, 1]
    assert json.loads(job(market, job_id).obligations)["isolation"] == "per_client_group"


def test_cancel_is_seen_at_the_next_charge(market: Market) -> None:
    job_id = submit(market)

    def cancel(round_number: int) -> None:
        if round_number == 2:
            lifecycle.cancel(market.services, RESEARCHER, job_id)

    stable = Stable(cancel)
    assert run(market, job_id, stable) == "ended"
    done = job(market, job_id)
    assert (done.status, done.rounds_charged, done.rounds_published) == ("cancelled", 5, 5)
    assert_settled(market)


def test_freeze_is_seen_at_the_next_charge(market: Market) -> None:
    job_id = submit(market)

    run(market, job_id, Stable(lambda number: freeze(market) if number == 2 else None))
    done = job(market, job_id)
    assert (done.status, done.rounds_charged) == ("frozen", 5)
    assert_settled(market)


def test_a_frozen_job_keeps_the_owners_latest_word(market: Market) -> None:
    job_id = submit(market)

    def tighten_and_freeze(round_number: int) -> None:
        if round_number == 2:
            market.activate(keeping_groups_apart())
            freeze(market)

    run(market, job_id, Stable(tighten_and_freeze))
    done = job(market, job_id)
    assert (done.status, done.rounds_charged) == ("frozen", 5)
    assert json.loads(done.obligations)["isolation"] == "per_client_group"
    assert_settled(market)


def freeze(market: Market) -> None:
    """The owner's switch for the whole population."""
    with market.database.unit_of_work() as session:
        ledger.freeze(
            session, population_id=market.population_id, reason="stop",
            actor_id=OWNER.id, now=market.clock(),
        )  # fmt: skip


def test_a_new_policy_stops_the_job_and_voids_the_rest(market: Market) -> None:
    job_id = submit(market)

    def tighten(round_number: int) -> None:
        if round_number == 1:
            market.activate(support.policy(rounds=3))

    run(market, job_id, Stable(tighten))
    done = job(market, job_id)
    assert (done.status, done.rounds_charged, done.rounds_published) == ("stopped_by_policy", 5, 5)
    assert_settled(market)
    with market.database.read() as session:
        last = events.since(session, job_id)[-1]
    assert "too_many_rounds" in last.body["reason"]


def test_the_job_does_not_stand_in_its_own_way(market: Market) -> None:
    """A rule on the budget's ε after the job must not count the job twice."""
    quote = quoting.quote(market.services, RESEARCHER, support.request(market.dataset_id))
    assert quote.budget_after is not None
    limit = str(int(quote.budget_after * 1.1e9))
    source = support.policy(cap=7).replace(
        "cost.epsilon_nano >", "cost.budget_epsilon_nano_after >"
    )
    market.activate(source.replace("7000000000", limit))
    job_id = submit(market, rounds=20)
    run(market, job_id, Stable())
    assert job(market, job_id).status == "completed"


def test_without_a_policy_engine_nothing_is_charged(market: Market) -> None:
    job_id = submit(market)
    market.services.engine.health()
    with support.engine(processes=1) as gone:
        gone.close()
        down = market.with_engine(gone)
        stable = Stable()
        assert run(down, job_id, stable) == "returned"
    assert stable.openings == 0
    waiting = job(market, job_id)
    assert (waiting.status, waiting.rounds_charged, waiting.attempt) == ("queued", 0, 0)
    assert run(market, job_id, Stable()) == "ended"
