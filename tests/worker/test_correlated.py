"""Jobs whose rounds hang together, through the coordinator: trees, and norms that adapt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobs import admission, events, lifecycle, settlement
from jobs.tables import Job, JobRelease
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import RESEARCHER, Market
from tests.support.pace import longest
from tests.support.trainer import Stable
from tests.worker.coordinated import ADAPTIVE, TREE
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
    return support.open_market(database, engine, tmp_path)


def submit(market: Market, changes: dict[str, Any]) -> str:
    request = support.request(market.dataset_id, **changes)
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def run(market: Market, job_id: str, stable: Stable, *, key: bytes | None = KEY) -> str:
    made = Tools(open_trainer=stable, noise=lambda: NoiseSource(key), pace=longest)
    return coordinator.run(market.services, job_id, worker="w1", tools=made)


def job(market: Market, job_id: str) -> Job:
    with market.database.read() as session:
        return session.get_one(Job, job_id)


def releases(market: Market, job_id: str) -> list[Any]:
    with market.database.read() as session:
        table = JobRelease.__table__
        query = sa.select(table).where(table.c.job_id == job_id).order_by(table.c.round)
        return list(session.execute(query))


def crash_once(*numbers: int) -> Stable:
    failing = set(numbers)

    def crash(number: int) -> None:
        if number in failing:
            failing.remove(number)
            raise SandboxFailed(FailureCode.CRASHED)

    return Stable(crash)


def published(market: Market, job_id: str) -> list[dict[str, Any]]:
    with market.database.read() as session:
        return [each.body for each in events.since(session, job_id) if each.kind == "published"]


def test_a_tree_is_charged_once_whole_and_interrupted_it_goes_on_without_a_charge(
    market: Market,
) -> None:
    straight, halting = submit(market, TREE), submit(market, TREE)
    assert run(market, straight, Stable()) == "ended"
    stable = crash_once(4, 11)
    assert [run(market, halting, stable) for _ in range(3)] == ["returned", "returned", "ended"]

    for job_id in (straight, halting):
        done = job(market, job_id)
        assert (done.status, done.rounds_charged, done.rounds_published) == ("completed", 12, 12)
    # Ten rounds are one pass over the thousand, so the job is two trees, in one entry.
    assert [(e.job_id, e.rounds) for e in market.entries("charge")] == [(straight, 2), (halting, 2)]
    digests = [[row.digest for row in releases(market, each)] for each in (straight, halting)]
    assert digests[0] == digests[1]
    assert set(market.balance().reserved) == {0}
    with market.database.read() as session:
        receipt = settlement.receipt(session, RESEARCHER, halting)
    assert receipt["mechanism"]["kind"] == "tree_gaussian"
    assert receipt["rounds"] == {"requested": 12, "charged": 12, "published": 12}


def test_a_tree_takes_everybody_once_a_pass(market: Market) -> None:
    stable = Stable()
    run(market, submit(market, TREE), stable, key=None)
    (trained,) = [trainer for trainer in stable.made if trainer.rounds]
    first = [client for cohort in trained.cohorts[:10] for client in cohort.tolist()]
    assert sorted(first) == list(range(1000))
    assert trained.task.event == "tree_sum"


def test_a_tree_that_is_cancelled_stops_and_gives_nothing_back(market: Market) -> None:
    job_id = submit(market, TREE)

    def cancel(number: int) -> None:
        if number == 3:
            lifecycle.cancel(market.services, RESEARCHER, job_id)

    stable = Stable(cancel)
    assert run(market, job_id, stable) == "ended"
    done = job(market, job_id)
    # Seen before the second block of five.
    assert (done.status, done.rounds_charged, done.rounds_published) == ("cancelled", 12, 5)
    assert [entry.rounds for entry in market.entries("void")] == [0]
    assert set(market.balance().reserved) == {0}


def test_nothing_is_remembered_of_a_job_that_is_over(market: Market) -> None:
    """The key of an unfinished tree would uncover sums; nobody goes on with it any more."""
    job_id = submit(market, TREE)
    seen = []

    def look(number: int) -> None:
        seen.extend(row.server_state is not None for row in releases(market, job_id)[-1:])
        if number == 3:
            lifecycle.cancel(market.services, RESEARCHER, job_id)

    run(market, job_id, Stable(look))
    assert seen
    assert all(seen)
    last = releases(market, job_id)[-1]
    assert last.weights is not None
    assert last.server_state is None


def test_an_adaptive_norm_is_released_with_its_round_and_stands_in_the_receipt(
    market: Market,
) -> None:
    job_id, stable = submit(market, ADAPTIVE), Stable()
    assert run(market, job_id, stable) == "ended"
    (trained,) = [trainer for trainer in stable.made if trainer.rounds]
    told = [body["clip_norm"] for body in published(market, job_id)]
    assert told == trained.clip_norms
    assert told[0] == 0.1
    # Every client of this trainer is beyond C.
    assert told[-1] > told[0]
    with market.database.read() as session:
        receipt = settlement.receipt(session, RESEARCHER, job_id)
    assert receipt["clipping"] == {
        "kind": "adaptive",
        "initial_clip_norm": 0.1,
        "quantile": 0.5,
        "learning_rate": 0.2,
        "clip_count_noise": 2.5,
        "update_noise_multiplier": pytest.approx((1.1**-2 - 5.0**-2) ** -0.5),
        "last_clip_norm": told[-1],
    }


def test_an_adaptive_job_that_was_interrupted_releases_the_same(market: Market) -> None:
    straight, halting = submit(market, ADAPTIVE), submit(market, ADAPTIVE | {"rounds": 20})
    run(market, straight, Stable())
    stable = crash_once(3, 9)
    while run(market, halting, stable) == "returned":
        pass
    digests = [[row.digest for row in releases(market, each)] for each in (straight, halting)]
    norms = [[b["clip_norm"] for b in published(market, each)] for each in (straight, halting)]
    assert digests[0] == digests[1][:12]
    assert norms[0] == norms[1][:12]


def test_a_fixed_norm_is_no_release(market: Market) -> None:
    job_id = submit(market, {"rounds": 2})
    run(market, job_id, Stable())
    assert all("clip_norm" not in body for body in published(market, job_id))
    with market.database.read() as session:
        receipt = settlement.receipt(session, RESEARCHER, job_id)
    assert receipt["clipping"] == {"kind": "fixed", "clip_norm": 1.0}
