"""Every algorithm that is admitted runs from request to result, in the real sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from jobs import admission, runnable
from jobs.tables import Job, JobRelease
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as markets
from tests.support import workers
from tests.support.market import RESEARCHER
from tests.worker import engine as small
from worker import coordinator
from worker.coordinator import Tools
from worker.launcher import Sandbox
from worker.task import GRID, AlgorithmName, TrainingTask

pytestmark = pytest.mark.tensorflow

OPTIONS: dict[str, dict[str, Any]] = {"dp_fedprox": {"proximal_mu": 0.5}}
MORE: dict[str, dict[str, Any]] = {
    "dp_ftrl": {"sampling": "none", "noise_multiplier": 4.0},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


def test_what_the_sandbox_knows_is_what_is_admitted() -> None:
    assert set(runnable.ALGORITHMS) == set(get_args(AlgorithmName))


@pytest.mark.parametrize("name", runnable.ALGORITHMS)
def test_a_job_of_every_algorithm_is_trained_and_published(
    sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path, name: str
) -> None:
    tasks: list[TrainingTask] = []

    def open_sandbox(task: TrainingTask, store: Path, test_store: Path | None) -> Sandbox:
        tasks.append(task)
        return Sandbox(task, store, test_store=test_store)

    market = workers.open_market(sqlite_database, engine, tmp_path)
    algorithm = {"name": name, "local_epochs": 2} | OPTIONS.get(name, {})
    request = markets.request(
        market.dataset_id, rounds=2, algorithm=algorithm, **MORE.get(name, {})
    )
    job_id = admission.submit(market.services, RESEARCHER, request, None).job.id

    ending = coordinator.run(market.services, job_id, worker="w1", tools=Tools(open_sandbox))

    with market.database.read() as session:
        job = session.get_one(Job, job_id)
        last = session.get_one(JobRelease, (job_id, 2))
    assert ending == "ended"
    assert (job.status, job.rounds_published) == ("completed", 2)
    assert last.weights
    assert (tasks[0].algorithm, tasks[0].proximal_mu) == (
        name,
        OPTIONS.get(name, {}).get("proximal_mu", 0.0),
    )


def test_the_proximal_term_holds_clients_back(tmp_path: Path) -> None:
    sizes = [40, 30, 50]
    small.store(tmp_path / "train", sizes)
    lengths = []
    for options in (
        {"algorithm": "dp_fedavg"},
        {"algorithm": "dp_fedprox", "proximal_mu": 0.001},
        {"algorithm": "dp_fedprox", "proximal_mu": 5.0},
    ):
        task = small.task(small.LINEAR, local_epochs=5, clip_norm=100.0, **options)
        with Sandbox(task, tmp_path / "train") as sandbox:
            sums = sandbox.round(1, np.arange(len(sizes)), sandbox.initial_weights())
        lengths.append(np.sqrt(sum(float(np.square(part / GRID).sum()) for part in sums)))
    free, hardly, strongly = lengths
    assert hardly == pytest.approx(free, rel=0.05)
    assert strongly < 0.8 * free
