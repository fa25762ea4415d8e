"""Where the processor time of a round of 100 clients goes, by model.

The engine's own parts are differences: a round that trains, a round whose clients all hand in the
same made-up update (rows are read, updates are clipped and summed), and the reading alone. What
the trusted side does is taken from whole jobs with a trainer that answers at once; policy, charge
and publication are its commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import market as markets
from benchmarks.contenders import contender
from benchmarks.models import Model
from benchmarks.report import Table
from benchmarks.timing import Sizes
from jobs import admission
from kit import log
from kit.clock import utc_now
from kit.ragged import RaggedStore
from tests.support.market import Market, request
from tests.support.trainer import Stable
from worker import coordinator
from worker.aggregate import ServerOptimizer, ServerState, run_round
from worker.coordinator import Tools
from worker.noise import NoiseSource
from worker.sampling import draw_cohort
from worker.task import GRID, TrainingTask
from worker.training import clients

COHORT = 100
PEOPLE = 400
TARGET = 0.05


@dataclass(frozen=True, slots=True)
class Parts:
    """Processor seconds of one round of `COHORT` clients."""

    sampling: float
    reads: float
    training: float
    clip: float
    noise: float
    commit: float

    @property
    def share(self) -> float:
        """What sampling, noise and commit are of all."""
        own = self.sampling + self.noise + self.commit
        return own / (own + self.reads + self.training + self.clip)


def table(models: Iterable[Model], sizes: Sizes) -> Table:
    """One row a model."""
    log.configure("ERROR")
    answer = Table(
        "parts",
        f"processor milliseconds of a round of {COHORT} clients",
        (
            "model",
            "sampling",
            "store reads",
            "training",
            "clip and sum",
            "noise and step",
            "commit",
            "sampling, noise, commit of all",
        ),
    )
    for model in models:
        with markets.scratch() as folder:
            parts = _parts(model, folder, sizes)
        answer.add(
            model.name,
            *(1e3 * getattr(parts, name) for name in Parts.__slots__),
            parts.share,
        )
    answer.notes.append(
        f"medians; SQLite, embedded policy engine; commit is all the rest a coordinator does: "
        f"policy, charge (one for each block of rounds), publication; target: at most {TARGET:.0%}"
    )
    return answer


def _parts(model: Model, folder: Path, sizes: Sizes) -> Parts:
    path = model.store(folder, divided_by=4 if sizes.quick else 1)
    store, task = RaggedStore.open(path), model.task()
    each = COHORT / store.clients
    trained, clipped = (_engine(kind, task, path, sizes) * each for kind in ("flat", "clip"))
    reads = each * _median(lambda number: _read(store, task, number), sizes)
    sampling = _median(lambda _: _draw(), sizes)
    noise = _median(_noising(task), sizes)
    commit = _coordinator(model, folder, sizes) - sampling - noise
    return Parts(sampling, reads, trained - clipped, clipped - reads, noise, commit)


def _median(act: Callable[[int], object], sizes: Sizes) -> float:
    """Processor seconds of this thread; the first time is not counted."""
    taken = []
    for number in range(2 * sizes.runs + 1):
        used = time.thread_time()
        act(number)
        taken.append(time.thread_time() - used)
    return median(taken[1:])


def _engine(kind: str, task: TrainingTask, path: Path, sizes: Sizes) -> float:
    """A round of everybody in the engine, rows read and updates summed."""
    with contender(kind, task, path) as engine:
        laps = [engine.lap(number) for number in range(sizes.runs + 1)]
    return median(lap.processor_seconds for lap in laps[1:])


def _read(store: RaggedStore, task: TrainingTask, number: int) -> None:
    for _ in clients.slices(
        store,
        np.arange(store.clients),
        columns=(task.features, task.label),
        cap=task.examples_per_client,
        seed=task.initial_seed,
        round_number=number,
    ):
        pass


def _draw() -> None:
    draw_cohort("poisson", PEOPLE, COHORT, NoiseSource().derive("cohort"))


def _noising(task: TrainingTask) -> Callable[[int], object]:
    """Check, noise and server step of a sum that clients could have."""
    state = ServerState([np.zeros(shape, np.float32) for shape in task.sum_shapes])
    sums = [np.full(array.shape, GRID // 1000, np.int64) for array in state.weights]

    def noise(_: int) -> object:
        return run_round(
            state,
            sums,
            clients=COHORT,
            clip_norm=task.clip_norm,
            noise_multiplier=1.0,
            denominator=float(COHORT),
            optimizer=ServerOptimizer(),
            source=NoiseSource().derive("noise"),
        )

    return noise


def _coordinator(model: Model, folder: Path, sizes: Sizes) -> float:
    """A round of a job whose trainer answers at once, without what is paid for once a job."""
    few, many = (10, 30) if sizes.quick else (10, 60)
    described: dict[str, Any] = {
        "feature_shape": list(model.shape),
        "feature_dtype": "int32" if model.text else "float32",
        "classes": model.task().model.layers[-1].units,  # type: ignore[union-attr]
        "manifest": {"examples_per_client": 300},
    }
    with markets.sqlite(folder) as database, markets.engine(1) as engine:
        market = markets.open_market(database, engine, folder, clients=PEOPLE, dataset=described)
        market = replace(market, services=replace(market.services, clock=utc_now))
        _job(market, model, few)
        rounds = [
            (_job(market, model, many) - _job(market, model, few)) / (many - few)
            for _ in range(sizes.runs)
        ]
    return median(rounds)


def _job(market: Market, model: Model, rounds: int) -> float:
    """Processor seconds of the coordinator's thread for one job.

    Raises:
        RuntimeError: the job did not end as it should.
    """
    asked = request(
        market.dataset_id,
        rounds=rounds,
        clients_per_round=COHORT,
        noise_multiplier=20.0,
        model={"architecture": model.task().model.model_dump(mode="json")},
    )
    job = admission.submit(market.services, markets.researcher(1), asked, None).job
    used = time.thread_time()
    ending = coordinator.run(
        market.services, job.id, worker="bench", tools=Tools(open_trainer=Stable())
    )
    used = time.thread_time() - used
    if ending != "ended":
        raise RuntimeError(f"the job was {ending}")
    return used
