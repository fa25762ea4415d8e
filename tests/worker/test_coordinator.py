"""The coordinator with a trainer in process: order of charge and data, retries, ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from accounting import ledger
from jobs import (
    admission,
    events,
    lifecycle,
    quoting,
    reaper,
    rounds,
    settlement,
    states,
    tensors,
    views,
)
from jobs.tables import Job, JobRelease, Outbox
from kit.db import Database
from kit.ragged_subset import Subset
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from tests.support import market as support
from tests.support.market import OWNER, RESEARCHER, Market
from tests.support.trainer import Stable
from worker import coordinator
from worker.coordinator import Tools
from worker.launcher import FailureCode, SandboxFailed
from worker.noise import NoiseSource

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    public = {"test_store_path": "public", "test_examples": 20}
    return support.open_market(database, engine, tmp_path, dataset=public)


def submit(market: Market, **changes: Any) -> str:
    request = support.request(market.dataset_id, **({"rounds": 12} | changes))
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def run(market: Market, job_id: str, stable: Stable, **tools: Any) -> str:
    made = Tools(open_trainer=stable, noise=lambda: NoiseSource(KEY), **tools)
    return coordinator.run(market.services, job_id, worker="w1", tools=made)


def keeping_groups_apart() -> str:
    """The market's policy with the obligation."""
    none, apart = "set(),\n}", '{{"type": "isolation", "value": "per_client_group"}},\n}'
    source = support.policy()
    assert source.count(f'"obligations": {none}') == 1
    return source.replace(f'"obligations": {none}', f'"obligations": {apart}')


def job(market: Market, job_id: str) -> Job:
    with market.database.read() as session:
        return session.get_one(Job, job_id)


def releases(market: Market, job_id: str) -> list[Any]:
    with market.database.read() as session:
        table = JobRelease.__table__
        query = sa.select(table).where(table.c.job_id == job_id).order_by(table.c.round)
        return list(session.execute(query))


def kinds(market: Market, job_id: str) -> list[str]:
    with market.database.read() as session:
        return [event.kind for event in events.since(session, job_id)]


def assert_settled(market: Market) -> None:
    assert set(market.balance().reserved) == {0}


def test_a_job_runs_to_its_end(market: Market) -> None:
    job_id = submit(market)
    stable = Stable()

    assert run(market, job_id, stable) == "ended"

    done = job(market, job_id)
    assert (done.status, done.rounds_charged, done.rounds_published) == ("completed", 12, 12)
    assert stable.rounds == list(range(1, 13))
    assert stable.openings == 1
    assert [row.round for row in releases(market, job_id)] == list(range(1, 13))
    assert [row.round for row in releases(market, job_id) if row.weights is not None] == [12]
    assert_settled(market)
    assert [entry.rounds for entry in market.entries("charge")] == [5, 5, 2]


def test_events_tell_the_story_in_order(market: Market) -> None:
    job_id = submit(market, rounds=2)
    run(market, job_id, Stable())
    assert kinds(market, job_id) == [
        "submitted", "reserved", "queued", "running",
        "charged", "published", "published", "completed",
    ]  # fmt: skip


def test_every_opening_of_data_has_a_committed_charge_before_it(market: Market) -> None:
    job_id = submit(market)
    seen: list[tuple[int, int]] = []

    def committed(round_number: int) -> None:
        # A connection of its own sees committed entries only.
        paid = sum(entry.rounds for entry in market.entries("charge"))
        seen.append((round_number, paid))

    run(market, job_id, Stable(committed))
    assert [number for number, _ in seen] == list(range(1, 13))
    assert all(paid >= number for number, paid in seen)


def test_charges_carry_decision_dataset_and_versions(market: Market) -> None:
    job_id = submit(market, rounds=1)
    run(market, job_id, Stable())
    (entry,) = market.entries("charge")
    facts = entry.leaf["facts"]
    assert facts["dataset"] == market.dataset_id
    assert facts["actor"] == RESEARCHER.id
    assert len(facts["decision_digest"]) == 64
    assert facts["policy_revision"] == 1
    assert entry.job_id == job_id


def test_result_and_receipt(market: Market) -> None:
    job_id = submit(market, rounds=3)
    with market.database.read() as session, pytest.raises(Refused, match="not_ready"):
        settlement.result(session, RESEARCHER, job_id)
    run(market, job_id, Stable())
    with market.database.read() as session:
        result = settlement.result(session, RESEARCHER, job_id)
        receipt = settlement.receipt(session, RESEARCHER, job_id)
    arrays = tensors.from_npz(result.data)
    assert [(name, array.shape) for name, array in arrays.items()] == [
        ("weight_0000", (4, 3)), ("weight_0001", (3,)),
    ]  # fmt: skip
    assert receipt["model"]["sha256"] == result.digest == tensors.digest(result.data)
    assert receipt["rounds"] == {"requested": 3, "charged": 3, "published": 3}
    assert receipt["guarantee"]["unit"] == "patient"
    assert 0 < receipt["guarantee"]["epsilon"] < job(market, job_id).epsilon_nano / 1e9 + 1e-9
    assert receipt["ledger"]["first_seq"] < receipt["ledger"]["last_seq"]
    assert "patient" in receipt["statement"]
    assert receipt["unprotected"]


def test_public_metrics_are_shown(market: Market) -> None:
    job_id = submit(market, rounds=1)
    run(market, job_id, Stable())
    with market.database.read() as session:
        assert views.get_job(session, RESEARCHER, job_id).metrics == {"accuracy": 0.5}


def test_the_model_is_noise_plus_sum_over_the_fixed_denominator(market: Market) -> None:
    job_id = submit(market, rounds=1, noise_multiplier=5.0)
    run(market, job_id, Stable())
    (row,) = releases(market, job_id)
    weights = tensors.from_npz(row.weights)["weight_0000"]
    # 50 clients of a quarter C spread over 12 coordinates, divided by 50: the mean is 1/48 each;
    # the noise has the standard deviation 5/50.
    assert np.abs(weights - 1 / 48).max() < 6 * 5 / 50
    assert np.abs(weights).max() > 0


def test_an_unknown_or_taken_job_is_not_taken(market: Market) -> None:
    assert run(market, "job_forged", Stable()) == "not_taken"
    job_id = submit(market, rounds=1)
    assert run(market, job_id, Stable()) == "ended"
    assert run(market, job_id, Stable()) == "not_taken"
    assert len(market.entries("charge")) == 1


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


def test_what_leaves_without_noise_comes_from_sandboxes_that_never_saw_a_person(
    market: Market,
) -> None:
    """First weights from one without data, rounds from one with people, metrics from a third."""
    job_id = submit(market)
    stable = Stable()
    run(market, job_id, stable)

    given = list(zip(stable.stores, stable.tests, strict=True))
    assert [(people is not None, public is not None) for people, public in given] == [
        (False, False), (True, False), (False, True),
    ]  # fmt: skip
    did = [
        (trainer.gave_weights, bool(trainer.rounds), trainer.evaluated) for trainer in stable.made
    ]
    assert did == [(True, False, False), (False, True, False), (False, False, True)]


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

    def freeze(round_number: int) -> None:
        if round_number == 2:
            with market.database.unit_of_work() as session:
                ledger.freeze(
                    session, population_id=market.population_id, reason="stop",
                    actor_id=OWNER.id, now=market.clock(),
                )  # fmt: skip

    run(market, job_id, Stable(freeze))
    done = job(market, job_id)
    assert (done.status, done.rounds_charged) == ("frozen", 5)
    assert_settled(market)


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
    assert (waiting.status, waiting.rounds_published) == ("queued", 2)
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
