"""When rounds are published: together within a moment, at a block's end, and what a fault costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from jobs import blocks, events
from jobs.errors import FencedOut
from jobs.tables import Job
from kit import tensors
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import Market
from tests.support.trainer import Stable
from tests.worker.coordinated import (
    ADAPTIVE,
    TREE,
    abandon,
    assert_settled,
    claimed,
    job,
    lose,
    published,
    releases,
    run,
    submit,
    told,
    waiting,
)
from worker.aggregate import AggregateInvalid, ServerState
from worker.launcher import FailureCode, SandboxFailed
from worker.noise import NoiseSource
from worker.publication import Publication

ENDLESS = 3600.0
_JOB = Job.__table__


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    """Blocks of five rounds, in which nothing is published before the end."""
    return waiting(support.open_market(database, engine, tmp_path), ENDLESS)


def weights(market: Market, job_id: str) -> dict[str, Any]:
    return tensors.load(releases(market, job_id)[-1].weights)


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_rounds_of_a_moment_are_published_as_one(market: Market) -> None:
    together, apart = submit(market), submit(market)
    assert run(market, together, Stable()) == "ended"
    assert run(waiting(market, 0.0), apart, Stable()) == "ended"

    assert published(market, together) == [5, 10, 12]
    assert published(market, apart) == list(range(1, 13))
    assert [row.weights is None for row in releases(market, together)] == [True, True, False]
    assert [body["round"] for body in told(market, together, "published")] == [5, 10, 12]
    assert_same_weights(weights(market, together), weights(market, apart))
    for job_id in (together, apart):
        done = job(market, job_id)
        assert (done.status, done.rounds_charged, done.rounds_published) == ("completed", 12, 12)
    assert_settled(market)


def test_what_has_waited_long_enough_is_published_within_its_block(market: Market) -> None:
    held = claimed(market)
    blocks.next_block(market.services, held)
    passed = [0.0]
    publication = Publication(waiting(market, 0.2).services, held, clock=lambda: passed[0])
    seen = []
    with publication.block():
        for number, moment in enumerate((0.15, 0.25, 0.4, 0.46, 0.5), start=1):
            passed[0] = moment
            publication.take(model(number), number, None)
            publication.catch_up()
            seen.append(published(market, held.job_id))
    assert seen == [[], [2], [2], [2, 4], [2, 4]]
    assert published(market, held.job_id) == [2, 4, 5]
    assert float(weights(market, held.job_id)["weight_0000"][0]) == 5.0


def test_a_model_is_published_while_the_next_round_of_its_block_is_computed(
    market: Market,
) -> None:
    """Not before: its bytes would keep the sandbox waiting. Nothing waits when a block begins."""
    job_id = submit(market)
    seen: dict[int, list[int]] = {}
    ordered = Stable(lambda number: seen.update({number: published(market, job_id)}))
    assert run(waiting(market, 0.0), job_id, ordered) == "ended"
    assert published(market, job_id) == list(range(1, 13))
    begin_blocks = (1, 6, 11)
    for number, before in seen.items():
        waits = 0 if number in begin_blocks else 1
        assert before == list(range(1, number - waits))


def test_time_between_blocks_is_not_time_that_a_model_waited(market: Market) -> None:
    held = claimed(market)
    blocks.next_block(market.services, held)
    passed = [0.0]
    publication = Publication(waiting(market, 0.2).services, held, clock=lambda: passed[0])
    passed[0] = 100.0
    with publication.block():
        publication.take(model(1), 1, None)
        publication.catch_up()
        assert published(market, held.job_id) == []
        publication.take(model(2), 2, None)
    assert published(market, held.job_id) == [2]


@pytest.mark.parametrize("slots", [0, 2])
def test_the_state_that_goes_with_a_model_is_the_newest(market: Market, slots: int) -> None:
    held = claimed(market)
    blocks.next_block(market.services, held)
    publication = Publication(market.services, held)
    with publication.block():
        for number in (1, 2, 3):
            state = replace(model(number), slots=[model(10 * number).weights] * slots)
            publication.take(state, number, 0.25 * number)
    kept = releases(market, held.job_id)[-1].server_state
    assert (kept is None) == (slots == 0)
    if kept is not None:
        state = ServerState.from_bytes(kept, [(3,)])
        assert (state.step, float(state.weights[0][0]), float(state.slots[1][0][0])) == (3, 3, 30)
    assert told(market, held.job_id, "published") == [{"round": 3, "rounds": 12, "clip_norm": 0.75}]


def test_rounds_before_a_failed_sandbox_are_not_lost(market: Market) -> None:
    job_id, straight = submit(market), submit(market)
    failing = {4}

    def crash(number: int) -> None:
        if number in failing:
            failing.clear()
            raise SandboxFailed(FailureCode.CRASHED)

    stable = Stable(crash)
    assert run(market, job_id, stable) == "returned"
    assert published(market, job_id) == [3]
    assert run(market, job_id, stable) == "ended"
    assert stable.rounds == list(range(1, 11))
    # Rounds 4 and 5 of the first block were opened, or could have been: they are charged again,
    # and the reservation has no room for the last two.
    done = job(market, job_id)
    assert (done.rounds_charged, done.rounds_published) == (12, 10)

    assert run(market, straight, Stable(stop_before(11))) == "returned"
    assert published(market, straight)[-1] == 10
    assert_same_weights(weights(market, job_id), weights(market, straight))


def stop_before(last: int) -> Any:
    def fail(number: int) -> None:
        if number == last:
            raise SandboxFailed(FailureCode.CRASHED)

    return fail


class Died(BaseException):
    """A process that is gone handles nothing."""


def die_at(last: int) -> Any:
    def die(number: int) -> None:
        if number == last:
            raise Died

    return die


def test_a_worker_that_dies_loses_what_waited_and_no_more(market: Market) -> None:
    job_id = submit(market)
    first, second = Stable(die_at(8)), Stable()
    with pytest.raises(Died):
        run(market, job_id, first)
    assert first.rounds == list(range(1, 8))
    assert published(market, job_id) == [5]
    lose(market, job_id)
    assert run(market, job_id, second) == "ended"
    # 6 and 7 are computed again, with a charge of their own.
    assert second.rounds[0] == 6
    assert [entry.rounds for entry in market.entries("charge")] == [5, 5, 2]
    assert published(market, job_id) == [5, 7]
    assert job(market, job_id).status == "completed"
    assert_settled(market)


@pytest.mark.parametrize("moment", ["before_round", "after_round"])
@pytest.mark.parametrize(
    "failure",
    [
        SandboxFailed(FailureCode.CRASHED),
        AggregateInvalid("a sum beyond what clipped updates can add up to"),
        RuntimeError("client 17 has the value 42"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_how_a_round_failed_does_not_show(market: Market, failure: Exception, moment: str) -> None:
    """By the events a researcher sees: what had waited is published whatever happened."""
    job_id = submit(market)

    def fail(number: int) -> None:
        if number == 3:
            raise failure

    assert run(market, job_id, Stable(**{moment: fail})) == "returned"
    with market.database.read() as session:
        seen = [(event.kind, event.body) for event in events.since(session, job_id)]
    assert seen[-3:] == [
        ("charged", {"first_round": 1, "rounds": 5, "rounds_charged": 5}),
        ("published", {"round": 2, "rounds": 12}),
        ("queued", {"reason": events.FAILED}),
    ]


def test_a_block_that_a_stopping_worker_abandons_keeps_what_it_has(market: Market) -> None:
    job_id = submit(market)
    assert abandon(market, job_id, in_round=3) == "returned"
    assert published(market, job_id) == [2]
    with market.database.read() as session:
        assert not events.attempt_failed(session, job_id)


def test_a_claim_that_was_lost_while_a_model_waited_publishes_nothing(market: Market) -> None:
    job_id = submit(market)

    def robbed(number: int) -> None:
        if number == 3:
            lose(market, job_id)

    assert run(market, job_id, Stable(robbed)) == "fenced_out"
    assert published(market, job_id) == []
    assert job(market, job_id).status == "queued"


def test_a_claim_lost_with_its_sandbox_is_lost(market: Market) -> None:
    held = claimed(market)
    blocks.next_block(market.services, held)
    publication = Publication(market.services, held)
    with pytest.raises(FencedOut), publication.block():
        publication.take(model(1), 1, None)
        lose(market, held.job_id)
        raise SandboxFailed(FailureCode.CRASHED)
    assert published(market, held.job_id) == []


def model(number: int) -> ServerState:
    return ServerState([np.full(3, number, np.float32)], step=number)


def test_a_setting_of_zero_publishes_every_round(market: Market) -> None:
    held = claimed(market)
    blocks.next_block(market.services, held)
    publication = Publication(waiting(market, 0.0).services, held, clock=lambda: 0.0)
    with publication.block():
        for number in (1, 2, 3):
            publication.take(model(number), number, None)
            publication.catch_up()
            assert published(market, held.job_id)[-1] == number
    with market.database.read() as session:
        counted = session.execute(sa.select(_JOB.c.rounds_published)).scalars().all()
    assert counted == [3]


@pytest.mark.parametrize(
    ("last", "kept"),
    [(4, [1]), (9, [1, 5]), (12, [1, 5, 10, 11])],
    ids=["in the first block", "in the second", "in the second tree"],
)
def test_a_tree_goes_on_under_its_key_after_a_death(
    market: Market, last: int, kept: list[int]
) -> None:
    """Its first round is published at once: the key is in no other place. Here it is a real one."""
    job_id = submit(market, **TREE)
    first, second = Stable(die_at(last)), Stable()
    with pytest.raises(Died):
        run(market, job_id, first, noise=NoiseSource)
    assert published(market, job_id) == kept
    lose(market, job_id)
    assert run(market, job_id, second, noise=NoiseSource) == "ended"
    assert published(market, job_id)[-1] == 12
    again = set(first.rounds) & set(second.rounds)
    assert again == set(range(kept[-1] + 1, last))
    dealt = [cohorts(stable) for stable in (first, second)]
    assert all(np.array_equal(dealt[0][number], dealt[1][number]) for number in again)
    assert len(market.entries("charge")) == 1


def test_a_trees_key_is_kept_with_what_waited_of_the_tree_before(market: Market) -> None:
    """Blocks of four: rounds 9 and 10 end a tree, 11 begins the next in the same block."""
    settings = market.services.settings.model_copy(update={"rounds_per_block": 4})
    market = replace(market, services=replace(market.services, settings=settings))
    job_id = submit(market, **TREE)
    assert run(market, job_id, Stable()) == "ended"
    assert published(market, job_id) == [1, 4, 8, 11, 12]


def cohorts(stable: Stable) -> dict[int, Any]:
    return {
        number: cohort
        for trainer in stable.made
        for number, cohort in zip(trainer.rounds, trainer.cohorts, strict=True)
    }


def test_a_norm_that_adapts_is_told_with_each_publication(market: Market) -> None:
    job_id = submit(market, **ADAPTIVE)
    stable = Stable()
    assert run(market, job_id, stable) == "ended"
    used = [norm for trainer in stable.made for norm in trainer.clip_norms]
    assert [body["clip_norm"] for body in told(market, job_id, "published")] == [
        used[number - 1] for number in (5, 10, 12)
    ]
    assert used == sorted(set(used))
