"""Where the processor time of a round of 100 clients goes, by model.

The engine's own parts are differences: a round that trains, a round whose clients all hand in the
same made-up update (rows are read, updates are clipped and summed), and the reading alone. Each
part is measured by itself, with the processor's caches to itself; `shares` tells of running jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import market as markets
from benchmarks import prompt
from benchmarks.contenders import contender
from benchmarks.market import COHORT
from benchmarks.models import Model
from benchmarks.prompt import PEOPLE
from benchmarks.report import Table
from benchmarks.timing import Sizes
from kit import allocator, log
from kit.ragged import RaggedStore
from worker.aggregate import ServerOptimizer, ServerState, run_round
from worker.app import KEPT_BYTES
from worker.noise import NoiseSource
from worker.sampling import draw_cohort
from worker.task import TrainingTask
from worker.training import clients


@dataclass(frozen=True, slots=True)
class Parts:
    """Processor seconds of one round of `COHORT` clients."""

    sampling: float
    reads: float
    training: float
    clip: float
    noise: float


def table(models: Iterable[Model], sizes: Sizes) -> Table:
    """One row a model."""
    log.configure("ERROR")
    allocator.keep(KEPT_BYTES)  # as a worker does
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
        ),
    )
    for model in models:
        with markets.scratch() as folder:
            turns = _turns(model, folder, sizes)
        answer.add(
            model.name,
            *(1e3 * median(getattr(turn, name) for turn in turns) for name in Parts.__slots__),
        )
    answer.notes.append("medians")
    return answer


def _turns(model: Model, folder: Path, sizes: Sizes) -> list[Parts]:
    """Every part measured in every turn: the machine changes its speed within a minute."""
    path = model.store(folder, divided_by=4 if sizes.quick else 1)
    store, task = RaggedStore.open(path), model.task()
    each = COHORT / store.clients
    noise = _noising(task)
    with (
        contender("flat", task, path) as flat,
        contender("clip", task, path) as clip,
    ):

        def turn(number: int) -> Parts:
            trained, clipped = (
                engine.lap(number).processor_seconds * each for engine in (flat, clip)
            )
            reads = each * _used(lambda: _read(store, task, number))
            sampling, noising = (median(_used(act) for _ in range(9)) for act in (_draw, noise))
            return Parts(sampling, reads, trained - clipped, clipped - reads, noising)

        return [turn(number) for number in range(2 * sizes.runs + 1)][1:]


def _used(act: Callable[[], object]) -> float:
    """Processor seconds of this thread."""
    used = time.thread_time()
    act()
    return time.thread_time() - used


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


def _noising(task: TrainingTask) -> Callable[[], object]:
    """Check, noise and server step."""
    state = ServerState([np.zeros(shape, np.float32) for shape in task.sum_shapes])
    sums = prompt.sums(task)

    def noise() -> object:
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
