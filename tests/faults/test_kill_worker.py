"""Workers that are killed, stopped, absent or misled: every acknowledged job still ends, once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import events
from jobs.queue import Queue
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as markets
from tests.support import servers, workers
from tests.support.market import Market

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# A round takes milliseconds: so many that a job is far from its end when a busy test has seen its
# first rounds, listed processes and sent a signal.
ROUNDS = 600


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return workers.open_market(database, engine, tmp_path)


@pytest.fixture
def sqlite_market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return workers.open_market(sqlite_database, engine, tmp_path)


def assert_sound(market: Market, job_id: str) -> None:
    """What must hold whatever happened: paid before published, published once, nothing held."""
    done = workers.job(market, job_id)
    rounds = [row.round for row in workers.published(market, job_id)]
    # Rounds that end within a moment are published as one, and leave the row of the last.
    assert rounds == sorted(set(rounds))
    assert rounds[-1] == done.rounds_published
    with market.database.read() as session:
        told = events.since(session, job_id, limit=10_000)
    assert [event.body["round"] for event in told if event.kind == "published"] == rounds
    charges = [entry for entry in market.entries("charge") if entry.job_id == job_id]
    assert sum(entry.rounds for entry in charges) == done.rounds_charged >= rounds[-1]
    covered = {
        (number, entry.fence)
        for entry in charges
        for number in range(entry.round_first, entry.round_first + entry.rounds)
    }
    assert {(row.round, row.fence) for row in workers.published(market, job_id)} <= covered
    assert set(market.balance().reserved) == {0}
    (void,) = [entry for entry in market.entries("void") if entry.job_id == job_id]
    assert void.rounds == done.rounds - done.rounds_charged


def test_kill_in_the_middle_of_a_job(market: Market, redis_url: str) -> None:
    job_id = workers.submit(market, rounds=ROUNDS)
    with workers.worker(market, redis_url) as first:
        workers.wait_published(market, job_id, 7)
        below = workers.descendants(first.pid)
        workers.kill_hard(first)
    stuck = workers.job(market, job_id)
    assert stuck.status == "running"
    _wait_for_ends(below)

    with workers.worker(market, redis_url):
        done = workers.wait_status(market, job_id, "completed")

    assert done.rounds_published > stuck.rounds_published
    assert done.fence == 2
    assert {row.fence for row in workers.published(market, job_id)} == {1, 2}
    assert_sound(market, job_id)


def test_a_worker_told_to_stop_leaves_nothing_behind(sqlite_market: Market, redis_url: str) -> None:
    market = sqlite_market
    job_id = workers.submit(market, rounds=ROUNDS)
    with workers.worker(market, redis_url) as first:
        workers.wait_published(market, job_id, 3)
        below = workers.descendants(first.pid)
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0
    waiting = workers.job(market, job_id)
    assert (waiting.status, waiting.attempt) == ("queued", 0)
    # The block under way was finished, so stopping cost nothing.
    assert waiting.rounds_charged == waiting.rounds_published
    # Bubblewrap's children die with it, which it does not wait for.
    _wait_for_ends(below)
    with workers.worker(market, redis_url):
        done = workers.wait_status(market, job_id, "completed")
    assert done.rounds_charged == done.rounds_published == ROUNDS
    assert_sound(market, job_id)


def test_a_job_waits_for_worker_and_broker(
    sqlite_market: Market, free_port: int, tmp_path: Path
) -> None:
    """Submitted while neither exists; the worker starts before its broker."""
    market = sqlite_market
    job_id = workers.submit(market, rounds=5)
    assert workers.job(market, job_id).status == "queued"
    with workers.worker(market, f"redis://127.0.0.1:{free_port}/0"):
        folder = tmp_path / "broker"
        folder.mkdir()
        with servers.redis(folder, port=free_port):
            done = workers.wait_status(market, job_id, "completed")
    assert done.rounds_published == 5
    assert_sound(market, job_id)


def test_messages_change_nothing_but_timing(sqlite_market: Market, redis_url: str) -> None:
    """Forged, doubled and lost hints."""
    market = sqlite_market
    first = workers.submit(market, rounds=5)
    queue = Queue(redis_url)
    for _ in range(10):
        queue.send(first)
        queue.send("job_forged")
        queue.send("'; DROP TABLE job; --")
    with workers.worker(market, redis_url):
        workers.wait_status(market, first, "completed")
        _flush(redis_url)
        second = workers.submit(market, rounds=5)
        _flush(redis_url)
        workers.wait_status(market, second, "completed")
        queue.send(first)
    queue.close()
    assert_sound(market, first)
    assert_sound(market, second)
    charges = market.entries("charge")
    assert sum(entry.rounds for entry in charges) == 5 + 5
    assert len({(entry.job_id, entry.leaf["round_first"]) for entry in charges}) == len(charges)


def _wait_for_ends(pids: set[int]) -> None:
    servers.wait_until(
        lambda: not any(workers.alive(pid) for pid in pids), what="the end of all processes"
    )


def _flush(redis_url: str) -> None:
    """Lose every message."""
    import redis

    redis.Redis.from_url(redis_url).flushdb()
