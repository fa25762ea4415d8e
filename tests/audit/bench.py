"""The audit's bench: whole jobs on the real worker, repeated under equal randomness.

A bench runs a job from request to release in a fresh gateway of its own: same ids, same clock, same
first weights. What a run is given is people's data and two keys, one for cohorts and one for noise;
two runs that were given the same end with the same bytes, so whatever differs between two runs was
caused by what they were given. The sandbox is real; the bench stands between it and the coordinator
and writes down the questions. A question that was answered before is answered from memory: the
answers do not depend on the coordinator, which is what most mutants change.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from jobs import admission
from jobs.services import Services
from jobs.tables import Job, JobRelease
from kit import ragged, tensors
from kit.db import Database
from policies.engine import PolicyEngine
from privacy_gateway import schemas
from privacy_gateway.schemas import JobRequest
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market
from tests.support.pace import longest
from worker import coordinator
from worker.coordinator import Ending, Tools
from worker.launcher import Sandbox
from worker.noise import NoiseSource
from worker.start import Start
from worker.task import TrainingTask
from worker.trainers import Data, nothing

PEOPLE, RECORDS, FEATURES = 200, 3, 16
PER_ROUND = 20
DATABASE, STORE = "gateway.db", "people"
MODEL = {
    "input": {"shape": [FEATURES]},
    "layers": [
        {"type": "Dense", "units": 256, "activation": "relu"},
        {"type": "Dense", "units": 3, "activation": "softmax"},
    ],
}


class Keys(NoiseSource):
    """Cohorts from one key, all other randomness of a round from another."""

    def __init__(self, cohort: int = 1, noise: int = 1) -> None:
        super().__init__(_key("noise", noise))
        self._cohorts = NoiseSource(_key("cohort", cohort))

    def derive(self, label: str) -> NoiseSource:  # type: ignore[override]
        """As the coordinator asks, round by round."""
        source = self._cohorts if label.endswith("cohort") else NoiseSource(self._key)
        return source.derive(label)


@dataclass(frozen=True)
class World:
    """People's data: `rows` of all of them, `sizes` of each."""

    name: str
    rows: dict[str, np.ndarray]
    sizes: tuple[int, ...]

    def without(self, person: int) -> World:
        """The neighbour in which one person contributes nothing."""
        kept = np.repeat(np.arange(len(self.sizes)), self.sizes) != person
        sizes = [0 if each == person else size for each, size in enumerate(self.sizes)]
        rows = {name: column[kept] for name, column in self.rows.items()}
        return World(f"{self.name} without {person}", rows, tuple(sizes))

    def changed(self, person: int, name: str, change: Callable[[np.ndarray], Any]) -> World:
        """The same people, the features of one of them changed."""
        own = np.repeat(np.arange(len(self.sizes)), self.sizes) == person
        features = self.rows["features"].copy()
        features[own] = change(features[own])
        return World(f"{name} {person}", self.rows | {"features": features}, self.sizes)


def people(*, seed: int = 7) -> World:
    """Ordinary people: three classes around three centres."""
    generator = np.random.default_rng(seed)
    count = PEOPLE * RECORDS
    label = generator.integers(0, 3, count).astype(np.int32)
    features = generator.normal(size=(count, FEATURES)).astype(np.float32)
    features[np.arange(count), label] += 2.0
    return World("people", {"features": features, "label": label}, (RECORDS,) * PEOPLE)


def nobody() -> World:
    """A population of which nobody has a record: every release is noise alone."""
    rows = {name: column[:0] for name, column in people().rows.items()}
    return World("nobody", rows, (0,) * PEOPLE)


@dataclass(frozen=True)
class Run:
    """What one job did.

    Attributes:
        ending: how the coordinator let go of it.
        job: its row in the end.
        cohorts: who was handed to the sandbox, round by round.
        weights: the model before the first round and after each, flat, float64.
        norms: C of each round, where it adapts.
    """

    ending: Ending
    job: Job
    cohorts: list[np.ndarray]
    weights: list[np.ndarray]
    norms: list[float] = field(default_factory=list)

    @property
    def completed(self) -> bool:
        """Whether every round asked for was published."""
        return self.job.status == "completed" and self.job.rounds_published == self.job.rounds

    @property
    def updates(self) -> list[np.ndarray]:
        """What the server step added, round by round."""
        return [after - before for before, after in itertools.pairwise(self.weights)]


@dataclass
class Bench:
    """Makes gateways and runs jobs in them.

    Attributes:
        engine: the policy engine.
        home: an empty folder.
        start: how sandboxes begin.
        shards: threads in a sandbox.
        public: whether there is a public test set.
        block: rounds that are charged together.
        dtype: of the features.
    """

    engine: PolicyEngine
    home: Path
    start: Start
    shards: int = 1
    public: bool = False
    block: int = 200
    dtype: str = "float32"
    _answers: dict[bytes, Any] = field(default_factory=dict)
    _stores: dict[str, Path] = field(default_factory=dict)
    _templates: dict[int, Market] = field(default_factory=dict)
    _count: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def forgetting(self, **changes: Any) -> Bench:
        """The same bench with some attributes changed, and without memory of any answer."""
        return replace(self, _answers={}, **changes)

    def run(
        self,
        world: World,
        keys: NoiseSource | None = None,
        *,
        attempts: int = 1,
        around: Around = lambda _watched, _round: None,
        **changes: Any,
    ) -> Run:
        """One job; keyword arguments replace members of its request.

        Args:
            world: the data.
            keys: randomness of the mechanism; `Keys()` without a word.
            attempts: how often a worker takes the job up.
            around: called before each round.
            changes: of the request.
        """
        with self.market(world) as market:
            request = schemas.parse(JobRequest, body(market, **changes))
            job_id = admission.submit(market.services, RESEARCHER, request, None).job.id
            return self.work(market, world, job_id, keys, attempts=attempts, around=around)

    def work(
        self,
        market: Market,
        world: World,
        job_id: str,
        keys: NoiseSource | None = None,
        *,
        attempts: int = 1,
        around: Around = lambda _watched, _round: None,
    ) -> Run:
        """The worker's part of `run`."""
        watch = _Watch(self, world, around)
        tools = Tools(watch.opened, noise=lambda: keys or Keys(), pace=longest)
        for _ in range(attempts):
            ending = coordinator.run(market.services, job_id, worker="audit", tools=tools)
        return Run(ending, *_outcome(market, job_id, watch), watch.norms)

    @contextmanager
    def market(self, world: World) -> Iterator[Market]:
        """A gateway of its own, the same each time but for the data."""
        clients = len(world.sizes)
        if clients not in self._templates:
            self._templates[clients] = self._template(clients)
        folder = self.home / f"run{next(self._count)}"
        shutil.copytree(self.home / f"template{clients}", folder)
        (folder / "datasets").mkdir()
        (folder / "datasets" / STORE).symlink_to(self.store(world))
        model = self._templates[clients]
        database = Database(f"sqlite:///{folder / DATABASE}")
        settings = model.services.settings.model_copy(update={"state_dir": folder})
        services = replace(model.services, settings=settings, database=database)
        try:
            yield replace(model, services=repeatable(services, self.block))
        finally:
            database.close()

    def _template(self, clients: int) -> Market:
        """Population, data set and policy, made once: examining a policy takes a second."""
        for room in ("accounting", "gateway", "jobs", "policies"):
            importlib.import_module(f"{room}.tables")
        folder = self.home / f"template{clients}"
        folder.mkdir()
        database = Database(f"sqlite:///{folder / DATABASE}")
        database.create_all()
        files: dict[str, Any] = {
            "store_path": STORE,
            "feature_shape": [FEATURES],
            "feature_dtype": self.dtype,
        }
        if self.public:
            test = World("public", people(seed=8).rows, (PEOPLE * RECORDS,))
            files |= {"test_store_path": str(self.store(test)), "test_examples": PEOPLE * RECORDS}
        try:
            return markets.open_market(
                database, self.engine, folder, clients=clients, dataset=files
            )
        finally:
            database.close()

    def store(self, world: World) -> Path:
        """The world's rows as a sealed store."""
        if world.name not in self._stores:
            directory = self.home / f"store{len(self._stores)}"
            ragged.write(directory, world.rows, list(world.sizes))
            self._stores[world.name] = directory
        return self._stores[world.name]

    def ask(self, question: tuple[Any, ...], answer: Callable[[], Any]) -> Any:
        """What the sandbox says; the same question is put to it once."""
        parts = [part if isinstance(part, bytes) else repr(part).encode() for part in question]
        key = hashlib.sha256(b"|".join(hashlib.sha256(part).digest() for part in parts)).digest()
        if key not in self._answers:
            self._answers[key] = answer()
        return self._answers[key]


def body(market: Market, **changes: Any) -> dict[str, Any]:
    """A request for one round."""
    modest = {"rounds": 1, "clients_per_round": PER_ROUND, "model": {"architecture": MODEL}}
    return markets.body(market.dataset_id, **modest | changes)


def repeatable(services: Services, block: int) -> Services:
    """Ids that are the same in every gateway: the public seed of a job follows from its id."""
    numbers = itertools.count(1)
    settings = services.settings.model_copy(update={"rounds_per_block": block})
    return replace(
        services, settings=settings, new_id=lambda prefix: f"{prefix}_{next(numbers):026d}"
    )


@dataclass
class _Watch:
    """Stands between coordinator and sandboxes; opens one only for a question that is new."""

    bench: Bench
    world: World
    around: Around
    cohorts: list[np.ndarray] = field(default_factory=list)
    before: list[list[np.ndarray]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    @contextmanager
    def opened(self, task: TrainingTask, store: Data, test: Path | None) -> Iterator[Watched]:
        with ExitStack() as stack:
            yield Watched(
                self, task.model_copy(update={"shards": self.bench.shards}), store, test, stack
            )


@dataclass
class Watched:
    """A `worker.trainers.Trainer` with a sandbox behind it."""

    watch: _Watch
    task: TrainingTask
    store: Data
    test: Path | None
    stack: ExitStack
    _sandbox: Sandbox | None = None

    def initial_weights(self) -> Any:
        return self._ask("first", lambda sandbox: sandbox.initial_weights())

    def round(
        self,
        number: int,
        clients: np.ndarray,
        weights: Any,
        clip_norm: float | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> Any:
        self.watch.cohorts.append(np.array(clients))
        self.watch.before.append([np.array(array) for array in weights])
        self.watch.norms += [] if clip_norm is None else [clip_norm]
        asked = (number, clients.tobytes(), *(array.tobytes() for array in weights), clip_norm)

        self.watch.around(self, number)
        waiting = [meanwhile]
        sums = self._ask(
            "round",
            lambda box: box.round(number, clients, weights, clip_norm, waiting.pop()),
            *asked,
        )
        for late in waiting:  # the answer was known
            late()
        return sums

    def evaluate(self, weights: Any) -> dict[str, float]:
        asked = tuple(array.tobytes() for array in weights)
        return self._ask("evaluate", lambda sandbox: sandbox.evaluate(weights), *asked)

    def kill(self) -> None:
        if self._sandbox is not None:
            self._sandbox.kill()

    def _ask(self, command: str, answer: Callable[[Sandbox], Any], *asked: Any) -> Any:
        subject = (command, self.task.model_dump_json(), self.watch.world.name, str(self.test))
        return self.watch.bench.ask((*subject, *asked), lambda: answer(self.opened()))

    def opened(self) -> Sandbox:
        """The sandbox, started if need be."""
        if self._sandbox is None:
            sandbox = Sandbox(
                self.task, self.store, test_store=self.test, start=self.watch.bench.start
            )
            self._sandbox = self.stack.enter_context(sandbox)
        return self._sandbox


# Told of each round before it is computed; may raise, or kill what it is given.
Around = Callable[[Watched, int], None]


def _outcome(market: Market, job_id: str, watch: _Watch) -> tuple[Job, list[Any], list[Any]]:
    with market.database.read() as session:
        job = session.get_one(Job, job_id)
        newest = session.execute(
            sa.select(JobRelease.__table__.c.weights)
            .where(JobRelease.__table__.c.job_id == job_id)
            .order_by(JobRelease.__table__.c.round.desc())
            .limit(1)
        ).scalar_one_or_none()
    last = [] if newest is None else [list(tensors.load(newest).values())]
    return job, watch.cohorts, [_flat(arrays) for arrays in (*watch.before, *last)]


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def _key(use: str, number: int) -> bytes:
    return hashlib.sha256(f"{use} {number}".encode()).digest()
