"""What is lost and tried again: charges, caps, fences, and the same model in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from jobs import (
    events,
    lifecycle,
    reaper,
    rounds,
    settlement,
    states,
    views,
)
from jobs.tables import Job, Outbox
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import RESEARCHER, Market
from tests.support.servers import wait_until
from tests.support.trainer import FakeTrainer, Stable
from tests.worker.coordinated import abandon, assert_settled, job, releases, run, submit
from worker.launcher import FailureCode, SandboxFailed


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    public = {"test_store_path": "public", "test_examples": 20}
    return support.open_market(database, engine, tmp_path, dataset=public)


def test_a_lost_sandbox_is_a_new_attempt_and_a_new_charge(market: Market) -> None:
    job_id = submit(market)
    failing = {3}

    def crash(round_number: int) -> None:
        if round_number in failing:
            failing.clear()
            raise SandboxFailed(FailureCode.CRASHED)

    stable = Stable(crash)
    assert run(market, job_id, stable) == "returned"
    assert job(market, job_id).status == "queued"
    assert run(market, job_id, stable) == "ended"

    done = job(market, job_id)
    # 5 charged, 2 published; 3–7 again, 8–12, and the reservation of 12 has room for 2 of them.
    assert done.status == "completed"
    assert (done.rounds_charged, done.rounds_published) == (12, 9)
    assert stable.rounds == list(range(1, 10))
    with market.database.read() as session:
        receipt = settlement.receipt(session, RESEARCHER, job_id)
    assert "9 of 12 rounds" in receipt["reason"]
    assert_settled(market)


def test_a_worker_that_only_finishes_a_job_is_given_no_clients(market: Market) -> None:
    """Every round was published before the first worker stopped: nothing is charged any more."""
    job_id = submit(market)
    first, second = Stable(), Stable()

    assert run(market, job_id, first, stopping=lambda: len(first.rounds) == 12) == "returned"
    assert run(market, job_id, second) == "ended"

    assert first.openings == 1
    assert (second.openings, second.rounds) == (0, [])
    assert job(market, job_id).status == "completed"
    assert [entry.rounds for entry in market.entries("charge")] == [5, 5, 2]
    assert_settled(market)


def test_resumed_and_uninterrupted_jobs_release_the_same_model(market: Market) -> None:
    """With an injected key only; momentum carries its memory across the interruption."""
    algorithm = {
        "name": "dp_fedavg",
        "server_optimizer": {"name": "momentum", "learning_rate": 1.0, "momentum": 0.9},
    }
    straight = submit(market, rounds=5, algorithm=algorithm)
    run(market, straight, Stable())
    halting = submit(market, rounds=10, algorithm=algorithm)
    failing = {3}

    def crash(round_number: int) -> None:
        if round_number in failing:
            failing.clear()
            raise SandboxFailed(FailureCode.CRASHED)

    stable = Stable(crash)
    run(market, halting, stable)
    run(market, halting, stable)
    digests = [row.digest for row in releases(market, halting)]
    assert digests[:5] == [row.digest for row in releases(market, straight)]


def test_the_event_of_a_failed_attempt_names_no_kind_of_failure(market: Market) -> None:
    """Out of memory or not could depend on one person's examples."""
    job_id = submit(market)

    def crash(_: int) -> None:
        raise SandboxFailed(FailureCode.OUT_OF_MEMORY)

    run(market, job_id, Stable(crash))
    with market.database.read() as session:
        told = [event.body for event in events.since(session, job_id)]
    assert "out_of_memory" not in json.dumps(told)
    assert told[-1]["reason"] == "attempt_failed"


def test_attempts_are_capped_and_what_data_could_have_caused_is_paid(market: Market) -> None:
    job_id = submit(market)

    def crash(_: int) -> None:
        raise SandboxFailed(FailureCode.TRAINING_FAILED)

    stable = Stable(crash)
    market = replace(
        market,
        services=replace(
            market.services,
            settings=market.services.settings.model_copy(update={"maximum_attempts": 2}),
        ),
    )
    assert run(market, job_id, stable) == "returned"
    assert run(market, job_id, stable) == "ended"
    done = job(market, job_id)
    assert (done.status, done.failure) == ("failed", "sandbox_training_failed")
    assert (done.rounds_charged, done.rounds_published) == (12, 0)
    assert_settled(market)
    view = views.job_view
    with market.database.read() as session:
        shown = view(session, session.get_one(Job, job_id))
    assert shown.failure == "sandbox_training_failed"
    assert "attempt" not in json.dumps(shown.model_dump())


def test_an_unexpected_error_leaves_only_a_code(market: Market) -> None:
    job_id = submit(market, rounds=3)

    def leak(_: int) -> None:
        raise RuntimeError("client 17 has the value 42")

    while run(market, job_id, Stable(leak)) == "returned":
        pass
    done = job(market, job_id)
    assert (done.status, done.failure) == ("failed", "nothing_published")
    with market.database.read() as session:
        told = [event.body for event in events.since(session, job_id)]
    assert "client 17" not in json.dumps(told) + str(done.failure_detail)


def test_a_worker_that_is_told_to_stop_gives_the_job_back(market: Market) -> None:
    job_id = submit(market)
    stop: list[int] = []
    stable = Stable(lambda number: stop.append(number))
    assert run(market, job_id, stable, stopping=lambda: bool(stop)) == "returned"
    waiting = job(market, job_id)
    assert (waiting.status, waiting.attempt, waiting.rounds_published) == ("queued", 0, 5)
    assert run(market, job_id, Stable()) == "ended"
    # The block under way was finished, so nothing was charged twice.
    assert job(market, job_id).rounds_charged == 12


def test_an_attempt_that_the_database_ended_has_not_failed(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record had a part in a failover: a cancel after it costs what was opened."""
    job_id = submit(market)

    def lost(*_: object, **__: object) -> bool:
        raise OperationalError("INSERT", None, Exception("server closed the connection"))

    with monkeypatch.context() as patched:
        patched.setattr("jobs.releases.publish", lost)
        assert run(market, job_id, Stable()) == "returned"
    assert job(market, job_id).attempt == 1
    with market.database.read() as session:
        assert events.since(session, job_id)[-1].body == {"reason": "database_down"}
    lifecycle.cancel(market.services, RESEARCHER, job_id)
    assert job(market, job_id).rounds_charged == 5


def test_a_block_that_a_stopping_worker_abandons_has_not_failed(market: Market) -> None:
    """Else a cancel after an operator's restart would cost the whole job."""
    job_id = submit(market)
    assert abandon(market, job_id) == "returned"
    waiting = job(market, job_id)
    assert (waiting.status, waiting.attempt, waiting.rounds_charged) == ("queued", 0, 5)
    with market.database.read() as session:
        assert events.since(session, job_id)[-1].body == {"reason": "worker_stopping"}
        assert not events.attempt_failed(session, job_id)


def test_figures_that_a_stopping_worker_could_not_measure_are_measured_by_the_next(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(market)
    stop: list[int] = []

    def endless(trainer: FakeTrainer, weights: object) -> dict[str, float]:
        stop.append(1)
        wait_until(lambda: trainer.killed, what="the kill", seconds=20)
        raise SandboxFailed(FailureCode.CRASHED)

    with monkeypatch.context() as patched:
        patched.setattr(FakeTrainer, "evaluate", endless)
        ending = run(market, job_id, Stable(), stopping=lambda: bool(stop), stop_seconds=0.01)
    assert (ending, job(market, job_id).status) == ("returned", "queued")
    assert run(market, job_id, Stable()) == "ended"
    assert job(market, job_id).rounds_charged == 12
    assert json.loads(releases(market, job_id)[-1].metrics) == {"accuracy": 0.5}


def test_a_worker_that_slept_past_its_lease_is_fenced_out(market: Market) -> None:
    job_id = submit(market)

    def sleep(round_number: int) -> None:
        if round_number == 3:
            with market.database.unit_of_work() as session:
                session.execute(
                    sa.update(Job.__table__)
                    .where(Job.__table__.c.id == job_id)
                    .values(lease_expires_at=1)
                )
            assert reaper.reap(market.services) == [job_id]

    stable = Stable(sleep)
    assert run(market, job_id, stable) == "fenced_out"
    assert stable.rounds == [1, 2, 3]
    waiting = job(market, job_id)
    # The second had waited for the third to be under way.
    assert (waiting.status, waiting.rounds_published) == ("queued", 1)
    assert run(market, job_id, Stable()) == "ended"
    published = [row.round for row in releases(market, job_id)]
    assert published == list(range(1, len(published) + 1))
    assert job(market, job_id).rounds_charged >= len(published)
    assert_settled(market)


def test_a_claim_removes_the_hint_and_a_return_makes_it_again(market: Market) -> None:
    job_id = submit(market)
    outbox = sa.select(Outbox.__table__.c.sent_at).where(Outbox.__table__.c.job_id == job_id)
    with market.database.unit_of_work() as session:
        assert session.execute(outbox).all() == [(None,)]
        held = rounds.claim(session, job_id, worker="w", lease_seconds=60, now=market.clock())
        assert held is not None
        assert session.execute(outbox).all() == []
        rounds.release(session, held, reason="test", now=market.clock())
        assert session.execute(outbox).all() == [(None,)]
        assert states.locked(session, job_id).status == "queued"
