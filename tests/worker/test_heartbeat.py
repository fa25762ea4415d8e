"""The heartbeat renews the lease, and kills a sandbox whose work is worth nothing any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import admission, rounds
from jobs.rounds import Claim
from jobs.tables import Job
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import RESEARCHER, Market
from tests.support.servers import wait_until
from worker.heartbeat import Heartbeat


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return support.open_market(sqlite_database, engine, tmp_path)


@pytest.fixture
def held(market: Market) -> Claim:
    request = support.request(market.dataset_id)
    job_id = admission.submit(market.services, RESEARCHER, request, None).job.id
    with market.database.unit_of_work() as session:
        made = rounds.claim(session, job_id, worker="w", lease_seconds=60, now=market.clock())
    assert made is not None
    return made


def lease(market: Market, held: Claim) -> int:
    with market.database.read() as session:
        ends = session.get_one(Job, held.job_id).lease_expires_at
    return ends or 0


def end_lease(market: Market, held: Claim) -> None:
    table = Job.__table__
    with market.database.unit_of_work() as session:
        session.execute(table.update().where(table.c.id == held.job_id).values(lease_expires_at=1))


def beating(market: Market, held: Claim, stop: threading.Event) -> Heartbeat:
    return Heartbeat(
        market.database, held, every_seconds=0.01, stopping=stop.is_set, stop_seconds=0.05
    )


def test_the_lease_moves_on(market: Market, held: Claim) -> None:
    before = lease(market, held)
    with beating(market, held, threading.Event()):
        wait_until(lambda: lease(market, held) > before, what="a renewal", seconds=20)


def test_a_lost_lease_kills_the_sandbox(market: Market, held: Claim) -> None:
    killed = threading.Event()
    with beating(market, held, threading.Event()) as heartbeat:
        heartbeat.guard(killed.set)
        assert not killed.is_set()
        end_lease(market, held)
        assert killed.wait(20)


def test_a_sandbox_that_is_opened_too_late_is_killed_at_once(market: Market, held: Claim) -> None:
    end_lease(market, held)
    with beating(market, held, threading.Event()) as heartbeat:
        wait_until(lambda: not heartbeat._thread.is_alive(), what="the end", seconds=20)
        killed = threading.Event()
        heartbeat.guard(killed.set)
        assert killed.is_set()


def test_a_process_told_to_stop_abandons_a_long_block(market: Market, held: Claim) -> None:
    stop, killed = threading.Event(), threading.Event()
    with beating(market, held, stop) as heartbeat:
        heartbeat.guard(killed.set)
        stop.set()
        assert killed.wait(20)


def test_work_that_is_over_is_left_in_peace(market: Market, held: Claim) -> None:
    killed = threading.Event()
    with beating(market, held, threading.Event()) as heartbeat:
        heartbeat.guard(killed.set)
        heartbeat.rest()
        # A renewal that was under way would rightly take a lease that ends now for a lost one.
        wait_until(lambda: not heartbeat._thread.is_alive(), what="the end", seconds=20)
        end_lease(market, held)
    assert not killed.is_set()
