"""Charged evaluations: right shares, honest intervals, one client's weight, their own price."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import admission, quoting, settlement, views
from jobs.tables import Job, JobRelease
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from tests.support import market as markets
from tests.support import workers
from tests.support.market import RESEARCHER, Market
from tests.support.trainer import Stable
from tests.worker import engine as small
from worker import coordinator, estimate
from worker.coordinator import Tools
from worker.launcher import Sandbox
from worker.noise import NoiseSource
from worker.task import GRID, TrainingTask
from worker.trainers import Data

KEY = bytes(range(32))
SIZES = [12, 7, 0, 30, 9, 21, 5]
EVERYBODY = np.arange(len(SIZES))


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return workers.open_market(sqlite_database, engine, tmp_path)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    total, count, sigma, tries = 0.3, 0.5, 0.04, 4000
    held = 0
    for first, second in generator.normal(size=(tries, 2)) * sigma:
        low, high = estimate.interval(total + first, count + second, sigma)
        held += low <= total / count <= high
    assert abs(held / tries - 0.95) < 5 * math.sqrt(0.95 * 0.05 / tries)


@pytest.mark.parametrize(
    ("total", "count", "sigma"), [(0.1, -0.2, 0.1), (0.5, 0.1, 0.1), (-3.0, 0.0, 1.0), (0, 0, 1.0)]
)
def test_a_count_that_drowned_leaves_the_whole_range(
    total: float, count: float, sigma: float
) -> None:
    assert estimate.interval(total, count, sigma) == (0.0, 1.0)
    told = estimate.estimates(["loss"], np.array([total, count]), sigma)
    assert (told["dp_loss_low"], told["dp_loss_high"]) == (0.0, 10.0)
    assert ("dp_loss" in told) == (count > 0)


def test_less_noise_is_a_narrower_interval_around_the_share() -> None:
    widths = []
    for sigma in (0.1, 0.01, 0.001):
        low, high = estimate.interval(0.3, 0.5, sigma)
        assert low < 0.6 < high
        widths.append(high - low)
    assert widths[0] > 5 * widths[1] > 25 * widths[2]


@pytest.mark.tensorflow
def test_totals_are_means_weighted_by_a_bounded_count_and_no_client_weighs_more_than_c(
    tmp_path: Path,
) -> None:
    """In the real sandbox, beside Keras one client at a time; then with a client that is huge."""
    norm = 12.0
    task = small.task(small.LINEAR, release="evaluation", clip_norm=norm)
    store = small.store(tmp_path / "people", SIZES)
    most = norm / math.sqrt(3)
    with Sandbox(task, tmp_path / "people") as sandbox:
        weights = sandbox.initial_weights()
        (sums,) = sandbox.round(1, EVERYBODY, weights)
        each = [sandbox.round(1, np.array([c]), weights)[0] for c in EVERYBODY]
    np.testing.assert_array_equal(sums, sum(each))
    x, y = store.column("features"), store.column("label")
    logits = x @ weights[0] + weights[1]
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]
    right = logits.argmax(1) == y
    for client, size in enumerate(SIZES):
        rows = slice(*store.offsets[client : client + 2])
        totals = np.array([losses[rows].sum() / 10, right[rows].sum(), size])
        expected = totals * min(1.0, most / max(size, 1))
        np.testing.assert_allclose(each[client] * norm / GRID, expected, atol=1e-4)
        assert np.linalg.norm(each[client]) <= GRID

    rows = small.rows(SIZES)
    rows["features"][-SIZES[-1] :] = 1e38
    small.store(tmp_path / "huge", SIZES, features=rows["features"])
    with Sandbox(task, tmp_path / "huge") as sandbox:
        (changed,) = sandbox.round(1, EVERYBODY, weights)
        (without,) = sandbox.round(1, EVERYBODY[:-1], weights)
    assert 0 < np.linalg.norm(changed - without) <= GRID


def opened(task: TrainingTask, store: Data, test_store: Path | None) -> Sandbox:
    return Sandbox(task, store, test_store=test_store)


def submit(market: Market, **changes: Any) -> str:
    request = markets.request(market.dataset_id, **changes)
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def run(market: Market, job_id: str, trainer: Any) -> Job:
    tools = Tools(trainer, noise=lambda: NoiseSource(KEY))
    assert coordinator.run(market.services, job_id, worker="w", tools=tools) == "ended"
    with market.database.read() as session:
        return session.get_one(Job, job_id)


def measuring(job_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "evaluate",
        "initial": {"job": job_id},
        "rounds": 1,
        "outputs": ["dp_metrics", "receipt"],
        "noise_multiplier": 2.0,
        "clients_per_round": 150,
    } | changes


@pytest.mark.tensorflow
def test_a_released_model_is_measured_on_clients_for_a_price_of_its_own(market: Market) -> None:
    trained = submit(market, rounds=1)
    run(market, trained, Stable())
    measured = submit(market, **measuring(trained))
    job = run(market, measured, opened)

    assert (job.status, job.rounds_charged, job.rounds_published) == ("completed", 1, 1)
    with market.database.read() as session:
        metrics = views.get_job(session, RESEARCHER, measured).metrics
        release = session.get_one(JobRelease, (measured, 1))
        receipt = settlement.receipt(session, RESEARCHER, measured)
        with pytest.raises(Refused, match="forbidden"):
            settlement.result(session, RESEARCHER, measured)
    assert metrics is not None
    assert metrics["dp_accuracy_low"] < metrics["dp_accuracy"] < metrics["dp_accuracy_high"]
    assert abs(metrics["dp_accuracy"] - metrics["accuracy"]) < 0.5
    assert metrics["dp_loss_low"] < metrics["dp_loss"] < metrics["dp_loss_high"]
    # Neither the count, nor the totals, nor the size of the cohort.
    assert set(metrics) == {
        "loss", "accuracy", "examples",
        *(f"dp_{name}{edge}" for name in ("loss", "accuracy") for edge in ("", "_low", "_high")),
    }  # fmt: skip
    assert release.weights is None
    charged = market.entries("charge")[-1]
    assert charged.leaf["mechanism"]["release"] == "evaluation"
    assert receipt["mechanism"]["release"] == "evaluation"
    assert receipt["model"]["evaluated_job"] == trained
    assert receipt["guarantee"]["epsilon"] > 0
    assert json.loads(job.request)["initial"] == {"job": trained}


def test_what_does_not_go_together_is_refused_by_name(market: Market) -> None:
    trained, waiting = submit(market, rounds=1), submit(market, rounds=1)
    run(market, trained, Stable())
    other = {"input": {"shape": [4]}, "layers": [{"type": "Dense", "units": 3, "use_bias": False}]}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"initial": None}, "initial"),
        ({"rounds": 2}, "rounds"),
        ({"outputs": ["weights", "dp_metrics"]}, "outputs"),
        ({"outputs": ["receipt"]}, "outputs"),
        ({"algorithm": {"name": "dp_fedavg", "clip_norm": "adaptive"}}, "algorithm.clip_norm"),
        ({"algorithm": {"name": "dp_ftrl"}, "sampling": "none"}, "algorithm.name"),
        # Not over yet, not there, and of another architecture.
        ({"initial": {"job": waiting}}, "initial.job"),
        ({"initial": {"job": "job_nobody"}}, "initial.job"),
        ({"model": {"architecture": other}}, "initial.job"),
    ]
    for changes, field in wrong:
        for ask in (
            lambda body: submit(market, **body),
            lambda body: quoting.quote(
                market.services, RESEARCHER, markets.request(market.dataset_id, **body)
            ),
        ):
            with pytest.raises(Refused) as caught:
                ask(measuring(trained, **changes))
            assert [error.field for error in caught.value.errors] == [field], changes
    assert len(market.entries("reserve")) == 2
