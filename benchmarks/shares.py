"""How much of a running job is private: sampling, noise and commit, beside the training.

Whole jobs run as a worker runs them, with a forked sandbox, and the coordinator's own thread is
timed from the end of one answer of the sandbox to the next question, and in what it does while the
sandbox computes: cohort, check, noise, server step, publication, and each block's policy and charge
(a question costs the policy engine's child another 0.1 ms or so a block, which is not seen). That a
sum is checked once more as it is read belongs to handing it over. A stand-in that answers at once
would tell of less: it leaves the caches of the processor to the coordinator.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import market as markets
from benchmarks.models import Model
from benchmarks.report import Table
from benchmarks.timing import Sizes, processor_seconds
from jobs import admission
from kit import allocator, log
from kit.clock import utc_now
from tests.support.market import Market
from worker import coordinator
from worker.app import KEPT_BYTES, start_of, tools_of
from worker.coordinator import Tools
from worker.task import TrainingTask
from worker.trainers import Data, OpenTrainer
from worker.zygote import Zygote

TARGET = 0.05
PEOPLE = 2 * markets.COHORT
SMALL_PARAMETERS = 1_000_000


@dataclass(slots=True)
class _Spent:
    """Processor seconds since the end of a job's first round, and two by the clock.

    Attributes:
        rounds: that were computed since.
        own: of the coordinator's thread, between two rounds and while the sandbox computes one.
        handing: of the same thread, giving weights and reading and checking sums.
        sandbox: of the sandbox's process.
        waited: between two rounds, by the clock: nothing is trained then; and what the coordinator
            did during a round, where the sandbox had its answer before that was done.
        passed: by the clock.
    """

    rounds: int = 0
    own: float = 0.0
    handing: float = 0.0
    sandbox: float = 0.0
    waited: float = 0.0
    passed: float = 0.0

    @property
    def share(self) -> float:
        """What sampling, noise and commit are of all."""
        return self.own / (self.own + self.handing + self.sandbox)

    @property
    def share_of_the_clock(self) -> float:
        """The same by the clock."""
        return self.waited / self.passed


@dataclass(frozen=True, slots=True)
class _Moment:
    """Now, by this thread's processor time and by the clock."""

    thread: float = field(default_factory=time.thread_time)
    clock: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class _Watched:
    """A sandbox whose rounds are timed; the first one, which builds graphs, is not counted."""

    sandbox: Any
    spent: _Spent
    _answered: _Moment | None = None
    _used: float = 0.0

    def round(
        self,
        round_number: int,
        clients: Any,
        weights: Any,
        clip_norm: float | None,
        meanwhile: Callable[[], None],
    ) -> Any:
        aside = late = 0.0

        def timed() -> None:
            nonlocal aside, late
            began = _Moment()
            meanwhile()
            ended = _Moment()
            aside = ended.thread - began.thread
            late = ended.clock - began.clock if self._has_answered() else 0.0

        asked = _Moment()
        sums = self.sandbox.round(round_number, clients, weights, clip_norm, timed)
        answered = _Moment()
        used = processor_seconds(self.sandbox.pid)
        if self._answered is None:
            self._used = used
        else:
            self.spent.rounds += 1
            self.spent.own += asked.thread - self._answered.thread + aside
            self.spent.handing += answered.thread - asked.thread - aside
            self.spent.sandbox = used - self._used
            self.spent.waited += asked.clock - self._answered.clock + late
            self.spent.passed += answered.clock - self._answered.clock
        self._answered = _Moment()
        return sums

    def _has_answered(self) -> bool:
        """Whether the sandbox waits for its answer to be read."""
        answers = self.sandbox._channel._read_fd  # noqa: SLF001 - no product code asks this
        return bool(select.select([answers], [], [], 0)[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sandbox, name)


def table(models: Iterable[Model], sizes: Sizes) -> Table:
    """One row a model."""
    log.configure("ERROR")
    allocator.keep(KEPT_BYTES)  # as a worker does
    answer = Table(
        "shares",
        f"processor milliseconds of a round of {markets.COHORT} clients in a running job",
        (
            "model",
            "rounds",
            "sampling, noise, commit",
            "handing over",
            "sandbox",
            "sampling, noise, commit of all",
            "by the clock",
        ),
    )
    for model in models:
        with markets.scratch() as folder:
            _add(answer, model, list(_jobs(model, folder, sizes)))
    answer.notes.append(
        "medians of jobs; SQLite, embedded policy engine; commit is policy, charge and "
        f"publication; target: at most {TARGET:.0%}"
    )
    return answer


def _add(answer: Table, model: Model, jobs: list[_Spent]) -> None:
    each = [
        median(1e3 * getattr(job, part) / job.rounds for job in jobs)
        for part in ("own", "handing", "sandbox")
    ]
    shares = (
        median(job.share for job in jobs),
        median(job.share_of_the_clock for job in jobs),
    )
    answer.add(model.name, jobs[0].rounds + 1, *each, *shares)


def _jobs(model: Model, folder: Path, sizes: Sizes) -> Iterator[_Spent]:
    """Some jobs after one that is not counted."""
    store = replace(model, clients=PEOPLE).store(folder)
    with markets.sqlite(folder) as database, markets.engine(1) as engine:
        described = markets.described(model) | {"store_path": str(store)}
        market = markets.open_market(database, engine, folder, clients=PEOPLE, dataset=described)
        market = replace(market, services=replace(market.services, clock=utc_now))
        with _sandboxes(market) as opened:
            rounds, jobs = _lengths(model, sizes)
            for number in range(jobs + 1):
                spent = _run(market, model, opened, rounds)
                if number:
                    yield spent


@contextmanager
def _sandboxes(market: Market) -> Iterator[OpenTrainer]:
    """Forked from a warm parent, as a worker's are."""
    settings = market.services.settings
    start = start_of(settings)
    try:
        yield tools_of(settings, start).open_trainer
    finally:
        if isinstance(start, Zygote):
            start.close()


def _lengths(model: Model, sizes: Sizes) -> tuple[int, int]:
    """Rounds of a job, and jobs.

    Quick rounds need a job long enough for blocks and publications of the usual length; of rounds
    that take seconds each is a block of its own.
    """
    small = sum(map(math.prod, model.task().sum_shapes)) < SMALL_PARAMETERS
    if model.text or not small:
        return 3, 3
    return (20 if sizes.quick else 100), sizes.runs


def _run(market: Market, model: Model, opened: OpenTrainer, rounds: int) -> _Spent:
    """One job.

    Raises:
        RuntimeError: it did not end as it should.
    """
    spent = _Spent()
    asked = markets.asked(market, model, rounds=rounds)
    job = admission.submit(market.services, markets.researcher(1), asked, None).job
    tools = Tools(open_trainer=_watching(opened, spent))
    ending = coordinator.run(market.services, job.id, worker="bench", tools=tools)
    if ending != "ended":
        raise RuntimeError(f"the job was {ending}")
    return spent


def _watching(opened: OpenTrainer, spent: _Spent) -> Callable[..., Any]:
    """Open sandboxes with a clock; those that see no people are not asked for rounds."""

    @contextmanager
    def watched(task: TrainingTask, people: Data, public: Path | None) -> Iterator[Any]:
        with opened(task, people, public) as sandbox:
            yield _Watched(sandbox, spent)

    return watched
