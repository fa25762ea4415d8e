"""Jobs whose trainer answers at once: what is left is all that the coordinator itself does.

Policy, charge, cohort, check, noise, server step and publication are the product's own; the sums
have been made before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import history
from benchmarks import market as markets
from benchmarks.models import Model
from jobs import admission
from jobs.settings import Settings
from kit.clock import utc_now
from tests.support.market import Market
from tests.support.trainer import FakeTrainer
from worker.coordinator import Tools, run
from worker.pace import Pace, pace_of
from worker.task import GRID, TrainingTask

PEOPLE = 400


@contextmanager
def coordinator(model: Model, folder: Path, *, jobs: int = 0) -> Iterator[Callable[[], float]]:
    """Processor seconds of a round after `jobs` others, without what is paid for once a job."""
    few, many = 5, 45
    with markets.sqlite(folder) as database, markets.engine(1) as engine:
        market = markets.open_market(
            database, engine, folder, clients=PEOPLE, dataset=markets.described(model)
        )
        # Each round is published, or an answer at once would leave publication out.
        settings = market.services.settings.model_copy(update={"publish_seconds": 0.0})
        services = replace(market.services, clock=utc_now, settings=settings)
        market = replace(market, services=services)

        if jobs:
            history.age(market, jobs, markets.asked(market, model, rounds=1))

        def coordinate() -> float:
            return (_job(market, model, many) - _job(market, model, few)) / (many - few)

        yield coordinate


def sums(task: TrainingTask) -> list[Any]:
    """A sum that clients could have."""
    return [np.full(shape, GRID // 1000, np.int64) for shape in task.sum_shapes]


class _Prompt(FakeTrainer):
    """Answers with sums it has made before, so that what it does is not counted as a commit."""

    def __init__(self, task: TrainingTask) -> None:
        super().__init__(task, lambda _: None)
        self._sums = sums(task)

    def sums(self, clients: Any) -> list[Any]:
        return self._sums


@contextmanager
def _at_once(task: TrainingTask, *_: object) -> Iterator[FakeTrainer]:
    yield _Prompt(task)


def _job(market: Market, model: Model, rounds: int) -> float:
    """Processor seconds of the coordinator's thread for one job.

    Raises:
        RuntimeError: the job did not end as it should.
    """
    asked = markets.asked(market, model, rounds=rounds)
    job = admission.submit(market.services, markets.researcher(1), asked, None).job
    used = time.thread_time()
    ending = run(market.services, job.id, worker="bench", tools=Tools(_at_once, pace=_pace))
    used = time.thread_time() - used
    if ending != "ended":
        raise RuntimeError(f"the job was {ending}")
    return used


def _pace(settings: Settings, _: int) -> Pace:
    """As in a job of a hundred rounds, however many are measured."""
    return pace_of(settings, 100)
