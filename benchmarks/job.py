"""How long does a whole job take, and how much of it is not training?

The coordinator carries a linear model's job from the queue to the last release, once with the
real sandbox and once with a stand-in that answers at once: what is left is policy, charge, commit,
noise and publication.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import market as markets
from benchmarks.models import CLASSES, LR, Model
from benchmarks.report import Table
from benchmarks.timing import Sizes
from jobs import admission
from jobs.tables_datasets import Dataset
from kit import log
from kit.clock import utc_now
from kit.ragged import RaggedStore
from tests.support.market import Market, request
from tests.support.trainer import Stable
from worker import coordinator
from worker.app import tools_of
from worker.coordinator import Tools, Trainer
from worker.launcher import Sandbox
from worker.task import TrainingTask

COHORT = 100
Open = Callable[[TrainingTask, Path, Path | None], AbstractContextManager[Trainer]]


def ask(sizes: Sizes) -> Iterator[Table]:
    """One job several times."""
    log.configure("ERROR")
    rounds = 20 if sizes.quick else 100
    table = Table(
        "job",
        f"{LR.name}, {rounds} rounds of {COHORT} clients, from queue to released model",
        ("what", "seconds", "ms a round", "of the job"),
    )
    with (
        markets.scratch() as folder,
        markets.sqlite(folder) as database,
        markets.engine(1) as engine,
    ):
        store = LR.store(folder)
        market = markets.open_market(
            database, engine, folder, clients=RaggedStore.open(store).clients
        )
        market = replace(market, services=replace(market.services, clock=utc_now))
        _lay_out(market, store)
        real = tools_of(market.services.settings).open_trainer
        acts: dict[str, Callable[[], float]] = {
            "whole job": lambda: _job(market, real, rounds),
            "the same without training": lambda: _job(market, Stable(), rounds),
            "start of the sandbox": lambda: _start(LR, store),
        }
        taken: dict[str, list[float]] = {what: [] for what in acts}
        for _ in range(sizes.runs):
            for what, act in acts.items():
                taken[what].append(act())
    whole = median(taken["whole job"])
    for what, seconds in taken.items():
        per_round = None if "start" in what else median(seconds) / rounds * 1e3
        table.add(what, median(seconds), per_round, median(seconds) / whole)
    table.notes.append("SQLite, embedded policy engine; target: 100 rounds ≤ 10 s")
    yield table


def _job(market: Market, open_trainer: Open, rounds: int) -> float:
    """Seconds from the queue to the end.

    Raises:
        RuntimeError: the job did not end as it should.
    """
    asked = request(
        market.dataset_id,
        rounds=rounds,
        clients_per_round=COHORT,
        noise_multiplier=20.0,
        model={"architecture": LR.task().model.model_dump(mode="json")},
    )
    job = admission.submit(market.services, markets.researcher(1), asked, None).job
    started = time.perf_counter()
    ending = coordinator.run(
        market.services, job.id, worker="bench", tools=Tools(open_trainer=open_trainer)
    )
    seconds = time.perf_counter() - started
    if ending != "ended":
        raise RuntimeError(f"the job was {ending}")
    return seconds


def _start(model: Model, store: Path) -> float:
    """Seconds until a sandbox answers its first question."""
    started = time.perf_counter()
    with Sandbox(model.task(), store) as sandbox:
        sandbox.initial_weights()
        return time.perf_counter() - started


def _lay_out(market: Market, store: Path) -> None:
    """Give the market's data set a real store."""
    table = Dataset.__table__  # type: ignore[attr-defined]
    with market.database.unit_of_work() as session:
        session.execute(
            table.update()
            .where(table.c.id == market.dataset_id)
            .values(
                store_path=str(store),
                feature_shape=list(LR.shape),
                classes=CLASSES,
                manifest={"examples_per_client": 300},
            )
        )
