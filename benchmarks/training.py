"""How many clients a second are trained, by the engine alone and by a whole private round?

Everything takes turns on the same clients: the naive Keras loop, the flat-ragged engine on one
core and on all, and the round as a worker runs it: cohort, sandbox in another process, check,
noise, server step. Sums of the engines are compared, so that speed is not bought with a mistake.
A second table splits a round into its parts, a third tells what of a running job's work is private.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import market, parts, shares
from benchmarks.contenders import Lap, contender
from benchmarks.models import CNN, LR, LSTM, MLP, Model
from benchmarks.report import Table, cores
from benchmarks.timing import Sizes, processor_seconds
from kit.ragged import RaggedStore
from privacy_gateway.modelspec import measure
from worker.aggregate import ServerOptimizer, ServerState, run_round
from worker.launcher import Sandbox
from worker.noise import NoiseSource
from worker.sampling import draw_cohort
from worker.task import TrainingTask

NAIVE, ALONE, WHOLE = "naive Keras loop", "engine alone", "whole round"


def ask(sizes: Sizes) -> Iterator[Table]:
    """Engines against each other, and the parts of a round."""
    models = (LR, MLP, CNN, LSTM) if sizes.full else (LR, MLP)
    table = Table(
        "training",
        "clients a second, 10 to 300 examples each, batch 20",
        (
            "model and engine",
            "clients/s",
            "to naive",
            "clients/CPU-s",
            "to naive by CPU",
            "of GEMM peak",
        ),
    )
    for model in models:
        with market.scratch() as folder:
            _race(table, model, folder, sizes)
    table.notes.append(
        "whole round: cohort of everybody drawn, sandbox process, check, noise, server step; "
        "of GEMM peak: useful operations a processor-second to those of a 1024² matrix product"
    )
    yield table
    yield parts.table(models, sizes)
    yield shares.table(models, sizes)


def _race(table: Table, model: Model, folder: Path, sizes: Sizes) -> None:
    store = model.store(folder, divided_by=4 if sizes.quick else 1)
    opened = RaggedStore.open(store)
    with ExitStack() as stack:
        engines = {
            NAIVE: stack.enter_context(contender("naive", model.task(), store)),
            f"{ALONE}, 1 core": stack.enter_context(contender("flat", model.task(), store)),
            f"{ALONE}, {cores()} cores": stack.enter_context(
                contender("flat", model.task(shards=cores()), store)
            ),
        }
        acts: dict[str, Callable[[int], Lap]] = {n: e.lap for n, e in engines.items()}
        acts[f"{WHOLE}, {cores()} cores"] = stack.enter_context(_whole(model, store))
        laps: dict[str, list[Lap]] = {name: [] for name in acts}
        for number in range(sizes.runs + 1):
            for name, act in acts.items():
                laps[name].append(act(number))
        peak = engines[f"{ALONE}, 1 core"].peak()
    _rows(table, model, opened, laps, peak)


def _rows(
    table: Table, model: Model, store: RaggedStore, laps: dict[str, list[Lap]], peak: float
) -> None:
    useful = 3.0 * measure(model.task().model).flops * store.manifest.examples
    # The first lap of each builds graphs and is not counted.
    seconds = {name: median(lap.seconds for lap in taken[1:]) for name, taken in laps.items()}
    used = {
        name: median(lap.processor_seconds for lap in taken[1:]) for name, taken in laps.items()
    }
    for name in laps:
        table.add(
            f"{model.name}: {name}",
            store.clients / seconds[name],
            seconds[NAIVE] / seconds[name],
            store.clients / used[name],
            used[NAIVE] / used[name],
            useful / used[name] / peak,
        )
    wide = max(_difference(laps[NAIVE], taken) for n, taken in laps.items() if ALONE in n)
    table.notes.append(
        f"{model.name}: {store.clients} clients, {store.manifest.examples} examples; sums of the "
        f"engines and of the naive loop differ by {wide:.1e} of their length"
    )


def _difference(first: list[Lap], second: list[Lap]) -> float:
    """Largest relative distance of sums of the same round."""
    return max(
        float(np.linalg.norm(a.total - b.total) / np.linalg.norm(a.total))
        for a, b in zip(first, second, strict=True)
    )


class _whole:  # noqa: N801 - a context manager, used like a function
    """A round as `worker.coordinator` runs it, on a real sandbox."""

    def __init__(self, model: Model, store: Path) -> None:
        self._task: TrainingTask = model.task(shards=cores())
        self._clients = RaggedStore.open(store).clients
        self._sandbox = Sandbox(self._task, store)
        self._state = ServerState([])

    def __enter__(self) -> Callable[[int], Lap]:
        self._sandbox.__enter__()
        self._state = ServerState(self._sandbox.initial_weights())
        return self._lap

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()

    def _lap(self, number: int) -> Lap:
        started, used = time.perf_counter(), self._used()
        source = NoiseSource()
        cohort = draw_cohort("poisson", self._clients, self._clients, source.derive("cohort"))
        run_round(
            self._state,
            self._sandbox.round(number, cohort, self._state.weights),
            clients=len(cohort),
            clip_norm=self._task.clip_norm,
            noise_multiplier=1.0,
            denominator=float(self._clients),
            optimizer=ServerOptimizer(),
            source=source.derive("noise"),
        )
        return Lap(time.perf_counter() - started, self._used() - used, np.zeros(0))

    def _used(self) -> float:
        """Processor seconds of this process and the sandbox."""
        return time.process_time() + processor_seconds(self._sandbox.pid or 0)
