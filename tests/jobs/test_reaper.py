"""Ended leases bring jobs back, a cap ends them; housekeeping survives what it meets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import admission, blocks, lifecycle, presence, reaper, receipts, rounds
from jobs.errors import BrokerDown
from jobs.reaper import Housekeeping
from jobs.rounds import Claim
from jobs.settings import Settings
from jobs.tables import Job, WorkerPresence
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.schemas import JobRequest
from tests.support import market as support
from tests.support.market import RESEARCHER, Market
from tests.support.servers import wait_until


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return support.open_market(database, engine, tmp_path)


def running(market: Market) -> Claim:
    request = support.request(market.dataset_id)
    job_id = admission.submit(market.services, RESEARCHER, request, None).job.id
    return claim(market, job_id)


def claim(market: Market, job_id: str) -> Claim:
    with market.database.unit_of_work() as session:
        held = rounds.claim(session, job_id, worker="w", lease_seconds=60, now=market.clock())
    assert held is not None
    return held


def set_lease(market: Market, job_id: str, ends: Any) -> None:
    table = Job.__table__
    with market.database.unit_of_work() as session:
        session.execute(table.update().where(table.c.id == job_id).values(lease_expires_at=ends))


def job(market: Market, job_id: str) -> Job:
    with market.database.read() as session:
        return session.get_one(Job, job_id)


def test_a_living_lease_is_left_alone(market: Market) -> None:
    held = running(market)
    market.clock.advance(days=4000)
    assert reaper.reap(market.services) == []
    assert job(market, held.job_id).status == "running"


def test_an_ended_lease_brings_the_job_back(market: Market) -> None:
    held = running(market)
    set_lease(market, held.job_id, 1)
    assert reaper.reap(market.services) == [held.job_id]
    assert reaper.reap(market.services) == []
    assert job(market, held.job_id).status == "queued"
    assert claim(market, held.job_id).fence == 2


def test_a_lease_from_a_clock_that_was_set_back_ends_too(market: Market) -> None:
    held = running(market)
    ten_years = 10 * 365 * 86_400 * 1_000_000
    set_lease(market, held.job_id, rounds.database_micros() + ten_years)
    assert reaper.reap(market.services) == [held.job_id]


def test_no_lease_that_can_be_set_is_taken_for_one_of_a_wrong_clock(market: Market) -> None:
    """It would be taken back every second, from a worker that lives."""
    with pytest.raises(ValueError, match="lease_seconds"):
        Settings(lease_seconds=2 * reaper.IMPOSSIBLE_LEASE_SECONDS)
    settings = Settings(lease_seconds=21_600)
    held = running(market)
    with market.database.unit_of_work() as session:
        rounds.renew(session, replace(held, lease_seconds=settings.lease_seconds))
    assert reaper.reap(market.services) == []


def test_too_many_lost_workers_end_the_job_and_what_was_opened_is_paid(market: Market) -> None:
    held = running(market)
    blocks.next_block(market.services, held)
    for _ in range(market.services.settings.maximum_attempts - 1):
        set_lease(market, held.job_id, 1)
        reaper.reap(market.services)
        claim(market, held.job_id)
    set_lease(market, held.job_id, 1)
    reaper.reap(market.services)
    done = job(market, held.job_id)
    assert (done.status, done.failure) == ("failed", "worker_lost")
    assert done.rounds_charged == 20
    assert set(market.balance().reserved) == {0}


def test_a_wish_to_cancel_is_kept_when_the_worker_dies(market: Market) -> None:
    held = running(market)
    blocks.next_block(market.services, held)
    lifecycle.cancel(market.services, RESEARCHER, held.job_id)
    set_lease(market, held.job_id, 1)
    reaper.reap(market.services)
    done = job(market, held.job_id)
    assert (done.status, done.rounds_charged) == ("cancelled", 5)


def test_one_step_of_housekeeping_does_it_all(market: Market) -> None:
    held = running(market)
    set_lease(market, held.job_id, 1)
    sent: list[str] = []
    Housekeeping(market.services, sent.append).step()
    assert sent == [held.job_id]


@pytest.mark.parametrize("waiting", [False, True])
def test_a_job_that_cannot_be_ended_delays_no_other(
    market: Market, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    """Say its request is of an older version and is not read any more."""
    request = support.request(market.dataset_id)
    broken = admission.submit(market.services, RESEARCHER, request, None).job.id
    if not waiting:
        with market.database.unit_of_work() as session:
            most = market.services.settings.maximum_attempts - 1
            session.execute(
                Job.__table__.update().where(Job.__table__.c.id == broken).values(attempt=most)
            )
        claim(market, broken)
        set_lease(market, broken, 1)
    market.clock.advance(days=5)
    sound = running(market).job_id
    set_lease(market, sound, 1)
    market.clock.advance(days=3)
    read = receipts.request_of

    def unreadable(row: Job) -> JobRequest:
        if row.id == broken:
            raise ValueError("no longer a request")
        return read(row)

    monkeypatch.setattr(receipts, "request_of", unreadable)
    sent: list[str] = []
    Housekeeping(market.services, sent.append).step()
    assert sound in sent
    assert job(market, sound).status == "queued"
    assert job(market, broken).status == ("queued" if waiting else "running")


def test_housekeeping_survives_a_broken_broker_and_stops_when_told(market: Market) -> None:
    running_id = running(market).job_id
    set_lease(market, running_id, 1)
    calls: list[str] = []

    def flaky(job_id: str) -> None:
        calls.append(job_id)
        if len(calls) == 1:
            raise BrokerDown("once")
        if len(calls) == 2:
            raise RuntimeError("twice")

    # The hint that failed in an unexpected way counts as sent until it is announced again.
    services = replace(
        market.services,
        settings=market.services.settings.model_copy(update={"rehint_seconds": 0.001}),
        clock=lambda: market.clock.moment.replace(microsecond=len(calls) * 5000),
    )
    keeper = Housekeeping(services, flaky, interval_seconds=0.01)
    keeper.start()
    wait_until(lambda: len(calls) >= 3, what="a third call", seconds=20)
    keeper.stop()
    count = len(calls)
    assert not keeper._thread.is_alive()
    assert len(calls) == count


def test_presence_is_what_the_database_heard_lately(market: Market) -> None:
    table = WorkerPresence.__table__
    with market.database.unit_of_work() as session:
        presence.beat(session, "w1")
        presence.beat(session, "w2")
        presence.beat(session, "w1")
        assert presence.alive(session) == ["w1", "w2"]
        assert not presence.insecure(session)
        presence.beat(session, "w3", insecure=True)
        assert presence.insecure(session)
        presence.leave(session, "w3")
        assert not presence.insecure(session)
        session.execute(
            table.update()
            .where(table.c.worker == "w2")
            .values(seen_at=rounds.database_micros() - 31_000_000)
        )
        assert presence.alive(session) == ["w1"]
        presence.leave(session, "w1")
        assert presence.alive(session) == []
