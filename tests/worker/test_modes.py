"""Every way of drawing a cohort that is priced is drawn so, in whole jobs with the real sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accounting.plan import plan_of
from jobs import admission
from jobs.tables import Job
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as markets
from tests.support import workers
from tests.support.market import RESEARCHER, Market
from worker import coordinator
from worker.coordinator import Tools
from worker.launcher import Sandbox
from worker.noise import NoiseSource
from worker.task import TrainingTask
from worker.trainers import Data

pytestmark = pytest.mark.tensorflow

KEY = bytes(range(32))
PEOPLE = workers.CLIENTS


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return workers.open_market(sqlite_database, engine, tmp_path)


def run(market: Market, **changes: Any) -> tuple[Job, list[np.ndarray]]:
    """A job from request to result; the cohorts that were handed to the real sandbox."""
    request = markets.request(market.dataset_id, **changes)
    job_id = admission.submit(market.services, RESEARCHER, request, None).job.id
    cohorts: list[np.ndarray] = []

    @contextmanager
    def opened(task: TrainingTask, store: Data, test_store: Path | None) -> Iterator[Sandbox]:
        with Sandbox(task, store, test_store=test_store) as sandbox:
            train = sandbox.round

            def watched(number: int, clients: np.ndarray, *rest: Any, **more: Any) -> Any:
                cohorts.append(clients)
                return train(number, clients, *rest, **more)

            sandbox.round = watched  # type: ignore[method-assign]
            yield sandbox

    tools = Tools(opened, noise=lambda: NoiseSource(KEY))
    assert coordinator.run(market.services, job_id, worker="w", tools=tools) == "ended"
    with market.database.read() as session:
        return session.get_one(Job, job_id), cohorts


def test_a_fixed_size_is_drawn_and_priced_as_such(market: Market) -> None:
    numbers = {"sampling": "fixed_size", "clients_per_round": 30, "noise_multiplier": 6.0}
    job, cohorts = run(market, rounds=4, **numbers)

    assert (job.status, job.rounds_published) == ("completed", 4)
    assert [len(set(cohort.tolist())) for cohort in cohorts] == [30] * 4
    assert len({cohort.tobytes() for cohort in cohorts}) == 4, "each round draws anew"
    plan = plan_of(markets.request(market.dataset_id, **numbers), clients=PEOPLE)
    assert job.mechanism_digest == plan.mechanism.digest
    # z is halved in the event: a client that is replaced moves the sum by 2C.
    assert plan.mechanism.kind == "fixed_size_gaussian"
    assert "noise_multiplier=3.0" in repr(plan.mechanism.dp_event())
    assert plan.engine_parameters()["noise_multiplier"] == 6.0


def test_without_sampling_everybody_takes_part_in_every_round(market: Market) -> None:
    numbers = {"sampling": "none", "clients_per_round": PEOPLE, "noise_multiplier": 9.0}
    job, cohorts = run(market, rounds=2, **numbers)

    assert (job.status, job.rounds_published) == ("completed", 2)
    assert [cohort.tolist() for cohort in cohorts] == [list(range(PEOPLE))] * 2
    plan = plan_of(markets.request(market.dataset_id, **numbers), clients=PEOPLE)
    assert plan.mechanism.kind == "gaussian"
    assert job.mechanism_digest == plan.mechanism.digest
