"""The coordinator with a trainer in process: order of charge and data, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accounting import plan
from jobs import settlement, views
from kit import tensors
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from tests.support import market as support
from tests.support.market import RESEARCHER, Market
from tests.support.trainer import Stable
from tests.worker.coordinated import assert_settled, job, kinds, releases, run, submit
from worker.pace import pace_of


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    public = {"test_store_path": "public", "test_examples": 20}
    return support.open_market(database, engine, tmp_path, dataset=public)


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


@pytest.mark.parametrize(
    ("seconds", "charged"),
    [(3600.0, [1, 3, 3, 3, 2]), (1e-9, [1] * 12)],
    ids=["short rounds share a charge", "long ones have one each"],
)
def test_a_charge_covers_what_ends_within_a_moment(
    market: Market, seconds: float, charged: list[int]
) -> None:
    lengths = {"block_seconds": seconds, "rounds_per_block": 20}
    settings = market.services.settings.model_copy(update=lengths)
    market = replace(market, services=replace(market.services, settings=settings))
    run(market, submit(market), Stable(), pace=pace_of)
    assert [entry.rounds for entry in market.entries("charge")] == charged
    assert_settled(market)


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

    def paid() -> int:
        # A connection of its own sees committed entries only.
        return sum(entry.rounds for entry in market.entries("charge"))

    stable = Stable(
        before_round=lambda number: seen.append((number, paid())),
        before_opening=lambda: seen.append((0, paid())),
    )
    run(market, job_id, stable)
    # The sandbox is opened ahead of its first round, and only once that is paid.
    assert [number for number, _ in seen] == list(range(13))
    assert all(charged >= max(number, 1) for number, charged in seen)


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
        result = settlement.result(session, RESEARCHER, job_id, form="safetensors")
        receipt = settlement.receipt(session, RESEARCHER, job_id)
    arrays = tensors.load(result.data)
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


def test_a_job_never_runs_as_another_mechanism_than_it_was_priced_as(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade between admission and run may have moved a constant that plans are made of."""
    algorithm = {"name": "dp_fedavg", "clip_norm": "adaptive"}
    job_id = submit(market, algorithm=algorithm)
    monkeypatch.setattr(plan, "CLIP_COUNT_NOISE_PER_CLIENT", 0.06)
    stable = Stable()

    assert run(market, job_id, stable) == "ended"

    stopped = job(market, job_id)
    assert (stopped.status, stopped.rounds_charged) == ("stopped_by_policy", 0)
    assert stable.rounds == []
    assert_settled(market)


def test_public_metrics_are_shown(market: Market) -> None:
    job_id = submit(market, rounds=1)
    run(market, job_id, Stable())
    with market.database.read() as session:
        assert views.get_job(session, RESEARCHER, job_id).metrics == {"accuracy": 0.5}


def test_the_model_is_noise_plus_sum_over_the_fixed_denominator(market: Market) -> None:
    job_id = submit(market, rounds=1, noise_multiplier=5.0)
    run(market, job_id, Stable())
    (row,) = releases(market, job_id)
    weights = tensors.load(row.weights)["weight_0000"]
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


def test_what_leaves_without_noise_comes_from_sandboxes_that_never_saw_a_person(
    market: Market,
) -> None:
    """Rounds from one with people, first weights from one without data, metrics from a third."""
    job_id = submit(market)
    stable = Stable()
    run(market, job_id, stable)

    given = list(zip(stable.stores, stable.tests, strict=True))
    assert [(people is not None, public is not None) for people, public in given] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip
    did = [
        (trainer.gave_weights, bool(trainer.rounds), trainer.evaluated) for trainer in stable.made
    ]
    assert did == [(False, True, False), (True, False, False), (False, False, True)]
