"""Does a round cost the same for every client, and the same after many jobs as after none?

Cohorts of growing size take turns in one sandbox. Coordinators whose trainer answers at once stand
before ledgers of growing length, and take turns too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from statistics import median

import numpy as np

from benchmarks import market as markets
from benchmarks import prompt
from benchmarks.memory import MIB, peak
from benchmarks.models import LR, Model
from benchmarks.report import Table, cores
from benchmarks.timing import Sizes
from kit import allocator, log
from kit.ragged import RaggedStore
from worker.app import KEPT_BYTES
from worker.launcher import Sandbox
from worker.zygote import Zygote


def ask(sizes: Sizes) -> Iterator[Table]:
    """By cohort, then by history."""
    log.configure("ERROR")
    allocator.keep(KEPT_BYTES)
    yield _cohorts(LR, sizes)
    yield _histories(LR, sizes)


def _cohorts(model: Model, sizes: Sizes) -> Table:
    """Rounds in one sandbox; clients are drawn anew in each, so their records differ."""
    table = Table(
        "cohorts",
        f"{model.name}: a round in a sandbox, by the size of its cohort",
        ("clients", "ms a round", "µs a client", "to the smallest", "peak MiB"),
    )
    with markets.scratch() as folder, closing(Zygote()) as zygote:
        store = model.store(folder)
        clients = RaggedStore.open(store).clients
        counts = [clients // part for part in ((8, 4, 2, 1) if sizes.full else (4, 1))]
        draw = np.random.default_rng(7)
        taken: dict[int, list[float]] = {count: [] for count in counts}
        peaks: dict[int, int] = {}
        with Sandbox(model.task(shards=cores()), store, start=zygote) as sandbox:
            weights = sandbox.initial_weights()
            for turn in range(4 * sizes.runs + 1):
                for count in counts:
                    cohort = np.sort(draw.choice(clients, count, replace=False))
                    began = time.perf_counter()
                    sandbox.round(turn, cohort, weights)
                    taken[count].append(time.perf_counter() - began)
                    if turn == 0:  # from the smallest up, so each peak is its cohort's
                        peaks[count] = peak(sandbox.pid or 0)
    each = {count: median(laps[1:]) / count for count, laps in taken.items()}
    for count in counts:
        ratio = each[count] / each[counts[0]]
        row = (1e3 * each[count] * count, 1e6 * each[count], ratio, peaks[count] / MIB)
        table.add(f"{count:,}", *row)
    table.notes.append("medians by the clock; target: linear in clients")
    return table


def _histories(model: Model, sizes: Sizes) -> Table:
    """Coordinators before ledgers of so many jobs of the same researcher."""
    table = Table(
        "histories",
        f"{model.name}: a coordinator's round, by the jobs before",
        ("jobs before", "ms of the processor", "to none"),
    )
    lengths = [0, 1_000, 10_000] if sizes.full else [0, 1_000]
    taken: dict[int, list[float]] = {length: [] for length in lengths}
    with markets.scratch() as folder, ExitStack() as stack:
        coordinators = {}
        for length in lengths:
            own = folder / str(length)
            own.mkdir()
            made = prompt.coordinator(model, own, jobs=length)
            coordinators[length] = stack.enter_context(made)
        for _ in range(2 * sizes.runs + 1):
            for length, coordinate in coordinators.items():
                taken[length].append(coordinate())
    spent = {length: median(laps[1:]) for length, laps in taken.items()}
    for length in lengths:
        table.add(f"{length:,}", 1e3 * spent[length], spent[length] / spent[0])
    table.notes.append("medians; the trainer answers at once; target: flat in history")
    return table
