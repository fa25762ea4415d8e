"""Claim, fence, lease, charge and publish under races and late workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from accounting.tables import Population
from jobs import admission, blocks, releases, rounds, states
from jobs.errors import FencedOut
from jobs.rounds import Claim
from jobs.tables import Job, JobRelease
from jobs.tables_datasets import Dataset
from kit.clock import micros
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import RESEARCHER, Market

LATE = 1
"""A lease that ended in 1970."""


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return support.open_market(database, engine, tmp_path)


class Meddling:
    """A policy engine while whose first answer something else happens."""

    def __init__(self, engine: EmbeddedEngine, meanwhile: Callable[[], object]) -> None:
        self._engine, self._meanwhile = engine, [meanwhile]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def evaluate(self, *arguments: Any, **named: Any) -> Any:
        if self._meanwhile:
            self._meanwhile.pop()()
        return self._engine.evaluate(*arguments, **named)


def submit(market: Market, **changes: object) -> str:
    request = support.request(market.dataset_id, **({"rounds": 7} | changes))
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def take(market: Market, job_id: str, worker: str = "w") -> Claim | None:
    with market.database.unit_of_work() as session:
        return rounds.claim(session, job_id, worker=worker, lease_seconds=60, now=market.clock())


def taken(market: Market, job_id: str, worker: str = "w") -> Claim:
    held = take(market, job_id, worker)
    assert held is not None
    return held


@pytest.mark.parametrize("what", ["dataset", "population"])
def test_a_freeze_while_the_policy_is_asked_is_seen_before_the_charge(
    market: Market, engine: EmbeddedEngine, what: str
) -> None:
    held = taken(market, submit(market))
    table = {"dataset": Dataset, "population": Population}[what]

    def freeze() -> None:
        with market.database.unit_of_work() as session:
            session.execute(sa.update(table).values(frozen=True))

    meddled = market.with_engine(Meddling(engine, freeze))
    assert blocks.next_block(meddled.services, held) is None
    with market.database.read() as session:
        assert session.get_one(Job, held.job_id).status == "frozen"
    assert market.entries("charge") == []


def publish(
    market: Market, held: Claim, number: int, blob: bytes = b"model", *, first: int | None = None
) -> bool:
    with market.database.unit_of_work() as session:
        return releases.publish(
            session,
            held,
            first=number if first is None else first,
            round_number=number,
            weights=blob,
            server_state=None,
            digest="0" * 64,
            now=market.clock(),
        )


def lose(market: Market, job_id: str) -> None:
    """The lease ends."""
    table = Job.__table__
    with market.database.unit_of_work() as session:
        session.execute(table.update().where(table.c.id == job_id).values(lease_expires_at=LATE))


def give_back(market: Market, job_id: str) -> None:
    """What the reaper does."""
    with market.database.unit_of_work() as session:
        states.enqueue(session, states.locked(session, job_id), now=market.clock())


def charged(market: Market) -> int:
    return sum(entry.rounds for entry in market.entries("charge"))


def test_one_of_many_claims_wins(market: Market) -> None:
    job_id = submit(market)
    start = threading.Barrier(8)

    def race(number: int) -> Claim | None:
        start.wait()
        return take(market, job_id, f"w{number}")

    with ThreadPoolExecutor(8) as pool:
        won = [held for held in pool.map(race, range(8)) if held is not None]
    assert len(won) == 1
    assert won[0].fence == 1


def test_each_claim_raises_the_fence(market: Market) -> None:
    job_id = submit(market)
    for fence in (1, 2, 3):
        assert taken(market, job_id).fence == fence
        give_back(market, job_id)


def test_a_late_worker_can_neither_charge_nor_publish_nor_renew(market: Market) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    assert blocks.next_block(market.services, held) == rounds.Block(1, 5)
    lose(market, job_id)
    for late in (
        lambda: blocks.next_block(market.services, held),
        lambda: publish(market, held, 1),
        lambda: renew(market, held),
    ):
        with pytest.raises(FencedOut):
            late()
    assert charged(market) == 5
    assert workings(market, job_id) == []


def test_a_charge_is_written_to_the_job_too(market: Market) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    market.clock.moment += timedelta(seconds=5)
    assert blocks.next_block(market.services, held, most=3) == rounds.Block(1, 3)
    with market.database.read() as session:
        job = session.get_one(Job, job_id)
    assert (job.rounds_charged, job.updated_at) == (3, micros(market.clock()))
    assert charged(market) == 3


def test_no_block_is_longer_than_the_operator_lets_it(market: Market) -> None:
    held = taken(market, submit(market))
    assert blocks.next_block(market.services, held, most=50) == rounds.Block(1, 5)


def test_an_old_fence_is_refused_while_a_new_worker_holds_the_job(market: Market) -> None:
    job_id = submit(market)
    old = taken(market, job_id, "old")
    blocks.next_block(market.services, old)
    publish(market, old, 1)
    give_back(market, job_id)
    new = taken(market, job_id, "new")
    with pytest.raises(FencedOut):
        blocks.next_block(market.services, old)
    with pytest.raises(FencedOut):
        publish(market, old, 2)
    assert blocks.next_block(market.services, new) == rounds.Block(2, 2)
    assert publish(market, new, 2, b"new")


def test_a_round_is_published_once(market: Market) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    blocks.next_block(market.services, held)
    assert publish(market, held, 1, b"first")
    assert not publish(market, held, 1, b"second")
    with market.database.read() as session:
        point = releases.checkpoint(session, job_id)
    assert point is not None
    assert (point.round, point.weights) == (1, b"first")


def test_a_round_out_of_order_or_unpaid_is_refused(market: Market) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    with pytest.raises(ValueError, match="nobody paid"):
        publish(market, held, 1)
    blocks.next_block(market.services, held)
    with pytest.raises(ValueError, match="do not follow"):
        publish(market, held, 2)
    assert workings(market, job_id) == []


@pytest.mark.parametrize(("first", "last"), [(2, 3), (1, 5), (4, 3), (4, 4), (3, 99)])
def test_rounds_that_do_not_follow_are_refused_together(
    market: Market, first: int, last: int
) -> None:
    held = taken(market, submit(market))
    blocks.next_block(market.services, held)
    publish(market, held, 2, first=1)
    with pytest.raises(ValueError, match="do not follow"):
        publish(market, held, last, first=first)


def test_rounds_published_as_one_leave_the_row_of_the_last(market: Market) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    blocks.next_block(market.services, held)
    assert publish(market, held, 2, b"second", first=1)
    assert not publish(market, held, 2, b"again", first=1)
    assert not publish(market, held, 1)
    assert publish(market, held, 5, b"fifth", first=3)
    with pytest.raises(ValueError, match="nobody paid"):
        publish(market, held, 7, first=6)
    table = JobRelease.__table__
    with market.database.read() as session:
        rows = session.execute(sa.select(table).order_by(table.c.round)).all()
        assert session.get_one(Job, job_id).rounds_published == 5
    assert [(row.round, row.weights) for row in rows] == [(2, None), (5, b"fifth")]


def test_older_models_are_forgotten_but_their_digests_stay(market: Market) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    blocks.next_block(market.services, held)
    for number in (1, 2, 3):
        publish(market, held, number)
    table = JobRelease.__table__
    with market.database.read() as session:
        rows = session.execute(sa.select(table).order_by(table.c.round)).all()
    assert [row.weights for row in rows] == [None, None, b"model"]
    assert all(row.digest for row in rows)


def test_a_round_that_nobody_counted_is_refused_and_nothing_is_forgotten(market: Market) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    blocks.next_block(market.services, held)
    publish(market, held, 1, b"first")
    table = JobRelease.__table__
    with market.database.unit_of_work() as session:
        row = session.execute(sa.select(table)).one()._asdict()
        session.execute(table.insert().values(row | {"round": 2, "weights": b"from nowhere"}))
    with pytest.raises(ValueError, match="has not counted it"):
        publish(market, held, 2, b"second")
    with market.database.read() as session:
        models = session.execute(sa.select(table.c.weights).order_by(table.c.round)).scalars().all()
        assert models == [b"first", b"from nowhere"]
        assert session.get_one(Job, job_id).rounds_published == 1


def test_unpublished_rounds_are_charged_again_until_the_reservation_is_empty(
    market: Market,
) -> None:
    job_id = submit(market)
    held = taken(market, job_id)
    assert blocks.next_block(market.services, held) == rounds.Block(1, 5)
    give_back(market, job_id)
    held = taken(market, job_id)
    assert blocks.next_block(market.services, held) == rounds.Block(1, 2)
    publish(market, held, 1)
    publish(market, held, 2)
    block = blocks.next_block(market.services, held)
    assert block is not None
    assert block.rounds == 0
    assert charged(market) == 7


def test_publishing_starts_the_count_of_attempts_anew(market: Market) -> None:
    job_id = submit(market)
    taken(market, job_id)
    give_back(market, job_id)
    held = taken(market, job_id)
    assert held.attempt == 2
    blocks.next_block(market.services, held)
    publish(market, held, 1)
    give_back(market, job_id)
    assert taken(market, job_id).attempt == 1


def test_a_data_set_runs_as_many_jobs_as_its_owner_allows(market: Market) -> None:
    source = support.policy().replace(
        '"obligations": set(),\n}\n\nrefusals',
        '"obligations": {{"type": "max_parallel_jobs", "value": 1}},\n}\n\nrefusals',
    )
    market.activate(source)
    first, second = submit(market), submit(market)
    taken(market, first)
    assert take(market, second) is None
    give_back(market, first)
    assert take(market, second) is not None
    assert take(market, first) is None


def renew(market: Market, held: Claim) -> None:
    with market.database.unit_of_work() as session:
        rounds.renew(session, held)


def workings(market: Market, job_id: str) -> list[int]:
    table = JobRelease.__table__
    with market.database.read() as session:
        query = sa.select(table.c.round).where(table.c.job_id == job_id)
        return list(session.execute(query).scalars())
