"""How long does a whole job take, and how much of it is not training?

The coordinator carries a linear model's job from the queue to the last release: with sandboxes
forked from a warm parent, with sandboxes executed afresh, and with a stand-in that answers at once:
what is left is policy, charge, commit, noise and publication. Beside it, how long either kind of
sandbox takes until its first round is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import market as markets
from benchmarks.models import LR, Model
from benchmarks.report import Table
from benchmarks.timing import Sizes
from jobs import admission
from kit import log
from kit.clock import utc_now
from kit.ragged import RaggedStore
from tests.support.market import Market
from tests.support.trainer import Stable
from worker import coordinator
from worker.app import start_of, tools_of
from worker.coordinator import Tools
from worker.launcher import Sandbox
from worker.start import Execute, Start
from worker.trainers import OpenTrainer
from worker.zygote import Zygote

WHOLE = "whole job, forked"
WHOLE_JOBS = (WHOLE, "the same, executed", "the same without training")


def ask(sizes: Sizes) -> Iterator[Table]:
    """One job several times."""
    log.configure("ERROR")
    rounds = 20 if sizes.quick else 100
    table = Table(
        "job",
        f"{LR.name}, {rounds} rounds of {markets.COHORT} clients, from queue to released model",
        ("what", "seconds", "ms a round", "of the job"),
    )
    with (
        markets.scratch() as folder,
        markets.sqlite(folder) as database,
        markets.engine(1) as engine,
    ):
        store = LR.store(folder)
        described = markets.described(LR) | {"store_path": str(store)}
        market = markets.open_market(
            database,
            engine,
            folder,
            clients=RaggedStore.open(store).clients,
            dataset=described,
        )
        market = replace(market, services=replace(market.services, clock=utc_now))
        settings = market.services.settings
        zygote, cold = start_of(settings), Execute(bubblewrap=settings.sandbox_bubblewrap)
        forked, executed = (tools_of(settings, way).open_trainer for way in (zygote, cold))
        acts: dict[str, Callable[[], float]] = {
            WHOLE: lambda: _job(market, forked, rounds),
            "the same, executed": lambda: _job(market, executed, rounds),
            "the same without training": lambda: _job(market, Stable(), rounds),
            "one round, queue to released model": lambda: _job(market, forked, 1),
            "start of a sandbox, forked": lambda: _start(LR, store, zygote, rounds=0),
            "start and first round, forked": lambda: _start(LR, store, zygote, rounds=1),
            "start of a sandbox, executed": lambda: _start(LR, store, cold, rounds=0),
            "start and first round, executed": lambda: _start(LR, store, cold, rounds=1),
        }
        # The parent's import belongs to no job.
        _start(LR, store, zygote, rounds=0)
        taken: dict[str, list[float]] = {what: [] for what in acts}
        for _ in range(sizes.runs):
            for what, act in acts.items():
                taken[what].append(act())
        if isinstance(zygote, Zygote):
            zygote.close()
    whole = median(taken[WHOLE])
    for what, seconds in taken.items():
        per_round = median(seconds) / rounds * 1e3 if what.endswith(WHOLE_JOBS) else None
        table.add(what, median(seconds), per_round, median(seconds) / whole)
    table.notes.append(
        "SQLite, embedded policy engine; target: 100 rounds ≤ 10 s, first round of a warm job "
        "after ≤ 0.5 s"
    )
    yield table


def _job(market: Market, open_trainer: OpenTrainer, rounds: int) -> float:
    """Seconds from the queue to the end.

    Raises:
        RuntimeError: the job did not end as it should.
    """
    asked = markets.asked(market, LR, rounds=rounds)
    job = admission.submit(market.services, markets.researcher(1), asked, None).job
    started = time.perf_counter()
    ending = coordinator.run(
        market.services, job.id, worker="bench", tools=Tools(open_trainer=open_trainer)
    )
    seconds = time.perf_counter() - started
    if ending != "ended":
        raise RuntimeError(f"the job was {ending}")
    return seconds


def _start(model: Model, store: Path, way: Start, *, rounds: int) -> float:
    """Seconds until a sandbox has given first weights, or computed so many rounds from others'."""
    cohort, task = np.arange(markets.COHORT), model.task(shards=2)
    weights = [np.zeros(shape, np.float32) for shape in task.sum_shapes]
    started = time.perf_counter()
    with Sandbox(task, store if rounds else None, start=way) as sandbox:
        if not rounds:
            sandbox.initial_weights()
        for number in range(rounds):
            sandbox.round(number, cohort, weights)
        return time.perf_counter() - started
