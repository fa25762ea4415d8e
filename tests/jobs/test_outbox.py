"""Hints reach the broker after commit, late or twice if need be, and never hold a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobs import admission, lifecycle, outbox, rounds
from jobs.errors import BrokerDown
from jobs.queue import QUEUE, Queue, broker_url
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import RESEARCHER, Market


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return support.open_market(database, engine, tmp_path)


def submit(market: Market) -> str:
    request = support.request(market.dataset_id, rounds=1)
    return admission.submit(market.services, RESEARCHER, request, None).job.id


class Broker:
    """Remembers what was sent; `takes` limits how many messages it accepts."""

    def __init__(self, takes: int = 1000) -> None:
        self.sent: list[str] = []
        self.takes = takes

    def __call__(self, job_id: str) -> None:
        if len(self.sent) >= self.takes:
            raise BrokerDown("full")
        self.sent.append(job_id)


def relay(market: Market, broker: Broker, after_seconds: float = 0) -> int:
    now = market.clock() + timedelta(seconds=after_seconds)
    return outbox.relay(market.database, broker, now)


def test_a_submitted_job_is_announced_once(market: Market) -> None:
    job_id = submit(market)
    broker = Broker()
    assert relay(market, broker) == 1
    assert relay(market, broker) == 0
    assert broker.sent == [job_id]


def test_oldest_first(market: Market) -> None:
    first = submit(market)
    market.clock.advance(seconds=1)
    second = submit(market)
    broker = Broker()
    relay(market, broker)
    assert broker.sent == [first, second]


def test_a_broker_that_refuses_keeps_the_hint(market: Market) -> None:
    first = submit(market)
    market.clock.advance(seconds=1)
    second = submit(market)
    assert relay(market, Broker(takes=1)) == 1
    broker = Broker()
    assert relay(market, broker) == 1
    assert broker.sent == [second] != [first]
    assert outbox.waiting(market.database) == 2


def test_a_hint_without_a_claim_is_sent_again(market: Market) -> None:
    job_id = submit(market)
    broker = Broker()
    relay(market, broker)
    assert relay(market, broker, after_seconds=29) == 0
    assert relay(market, broker, after_seconds=31) == 1
    assert broker.sent == [job_id, job_id]


def test_a_clock_set_back_does_not_silence_the_relay(market: Market) -> None:
    submit(market)
    broker = Broker()
    assert relay(market, broker, after_seconds=10 * 365 * 86_400) == 1
    assert relay(market, broker) == 1


def test_two_relays_whose_clocks_differ_do_not_talk_in_turns(market: Market) -> None:
    """A busy worker takes nothing from the broker, where such messages would pile up."""
    job_id = submit(market)
    broker = Broker()
    for second in range(61):
        for skew in (0, 60):
            relay(market, broker, after_seconds=second + skew)
    assert broker.sent == [job_id] * 4  # by both at once, then every half a minute


def test_a_claimed_or_cancelled_job_is_not_announced(market: Market) -> None:
    claimed, cancelled = submit(market), submit(market)
    with market.database.unit_of_work() as session:
        rounds.claim(session, claimed, worker="w", lease_seconds=60, now=market.clock())
    lifecycle.cancel(market.services, RESEARCHER, cancelled)
    broker = Broker()
    assert relay(market, broker, after_seconds=3600) == 0
    assert outbox.waiting(market.database) == 0


def test_no_transaction_is_open_while_the_broker_is_talked_to(market: Market) -> None:
    """A broker that hangs must not hold up an admission."""
    submit(market)
    admitted: list[str] = []

    def slow(_: str) -> None:
        if not admitted:
            admitted.append(submit(market))

    outbox.relay(market.database, slow, market.clock())
    assert len(admitted) == 1


def test_the_real_broker_gets_a_job_id_and_nothing_else(redis_url: str) -> None:
    import base64
    import json

    import redis

    client = redis.Redis.from_url(redis_url)
    client.flushdb()
    queue = Queue(redis_url)
    queue.send("job_1")
    queue.close()
    (message,) = client.lrange(QUEUE, 0, -1)
    body = json.loads(base64.b64decode(json.loads(message)["body"]))
    assert body[:2] == [["job_1"], {}]
    client.flushdb()


def test_an_absent_broker_is_an_answer_within_the_timeout(free_port: int) -> None:
    queue = Queue(f"redis://127.0.0.1:{free_port}/0")
    started = time.monotonic()
    with pytest.raises(BrokerDown):
        queue.send("job_1")
    with pytest.raises(BrokerDown):
        queue.ping()
    assert time.monotonic() - started < 10
    queue.close()


def test_unix_sockets_in_either_spelling() -> None:
    assert broker_url("unix:///run/x.sock") == "redis+socket:///run/x.sock"
    assert broker_url("redis+socket:///run/x.sock") == "redis+socket:///run/x.sock"
    assert "secret" not in repr(Queue("redis://:secret@127.0.0.1:1/0"))
