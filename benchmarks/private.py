"""A whole training job for the tables: priced, noised and stepped by the product's own parts.

A request becomes a plan and the plan a price; the noise is the least that the filter of an empty
budget of (ε, δ) admits for the whole job, which thus spends all of it; the task is what the worker
tells its sandbox; cohort, sum, noise and server step are those of `worker.steps` over sandboxes of
`worker.trainers`. What is left out is the database: nobody reads these jobs. Seeds are injected so
that a table can be had again, which a real job never allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from accounting.budget import check_delta, epsilon_nano_of, terms_of
from accounting.calculator import EmptyBudget
from accounting.calibrate import admits, min_noise
from accounting.curve import standalone_epsilon
from accounting.mechanism import MIN_NOISE
from accounting.plan import TrainingPlan, plan_of
from benchmarks.datasets import Make, Registered
from benchmarks.report import cores
from jobs.tables_datasets import Dataset
from privacy_gateway import modelspec
from privacy_gateway.schemas import JobRequest
from worker.aggregate import ServerOptimizer, ServerState
from worker.launcher import Sandbox
from worker.noise import Integers, NoiseSource
from worker.orders import training_task
from worker.start import Start
from worker.steps import Stepper
from worker.task import TrainingTask
from worker.trainers import Data, Trainers

# Told each round's number and how to measure then.
Watch = Callable[[int, Callable[[], dict[str, float]]], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a data set is trained on.

    Attributes:
        name: of the row.
        make: registers the data.
        delta: δ of the budget.
        body: the request without data set, purpose and noise.
        at: changes of the body at some ε; a smaller budget wants fewer rounds.
        free: changes of the body without privacy: no norm to hold, time to converge.
        why: where these numbers come from.
        epsilons: at which the table asks; empty for all.
        seeds: jobs of a row.
    """

    name: str
    make: Make
    delta: float
    body: dict[str, Any]
    at: dict[float, dict[str, Any]] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    epsilons: tuple[float | None, ...] = ()
    seeds: int = 3

    def request(self, epsilon: float | None, noise: float = MIN_NOISE) -> JobRequest:
        """The job's body; `epsilon` None is the one without privacy."""
        changes = self.free if epsilon is None else self.at.get(epsilon, {})
        body = merged(self.body, changes)
        named = {"dataset": "dst_bench", "purpose": "research", "noise_multiplier": noise}
        return JobRequest.model_validate({**body, **named})


@dataclass(frozen=True, slots=True)
class Bought:
    """A request that spends a budget as far as its noise's grid allows.

    Attributes:
        request, plan: what is run; without privacy the plan's noise is not added.
        epsilon: of the budget; None without privacy.
        alone: stand-alone RDP ε of the job at the budget's δ.
    """

    request: JobRequest
    plan: TrainingPlan
    epsilon: float | None
    alone: float | None


class Silent(NoiseSource):
    """Cohorts as ever and no noise: the figure without privacy, and nothing a worker can load."""

    def gaussian(self, count: int, sigma: float) -> Integers:
        """Zeros."""
        return np.zeros(count, np.int64)


def buy(recipe: Recipe, clients: int, epsilon: float | None) -> Bought:
    """The least noise at which an empty budget of ε admits the job.

    Raises:
        ValueError: no noise is enough.
        Refused: `invalid_request`, a δ that no owner could choose for so many people.
    """
    check_delta(recipe.delta, clients)
    plan = plan_of(recipe.request(epsilon), clients=clients)
    if epsilon is None:
        return Bought(recipe.request(None), plan, None, None)
    budget = EmptyBudget(terms_of(epsilon_nano_of(epsilon), recipe.delta))
    noise = min_noise(budget, plan)
    if noise is None:
        raise ValueError(f"{recipe.name} cannot be bought for {epsilon}")
    request = recipe.request(epsilon, noise)
    plan = plan_of(request, clients=clients)
    if not admits(budget, plan.mechanism, plan.charge_units):
        raise AssertionError("a plan that its budget does not admit")
    alone = standalone_epsilon(plan.mechanism, plan.charge_units, recipe.delta)
    return Bought(request, plan, epsilon, alone)


def train(
    bought: Bought,
    data: Registered,
    *,
    seed: int,
    begin: Start,
    watch: Watch | None = None,
) -> dict[str, float]:
    """Metrics of the released model on the public test set.

    Args:
        bought: the job.
        data: what it runs on.
        seed: names cohorts, noise and first weights.
        begin: starts sandboxes.
        watch: told of each round; for looking for a recipe.
    """
    trainers = trainers_of(task_of(bought, data, f"seed {seed}"), data, begin)
    with closing(trainers):
        return trainers.evaluate(run(bought, trainers, source_of(bought, seed), watch).weights)


def run(
    bought: Bought,
    trainers: Trainers,
    source: NoiseSource,
    watch: Watch | None = None,
) -> ServerState:
    """All rounds of a job, as `worker.coordinator` goes through those it has charged."""
    ask = partial(trainers.round, group_clients=None)
    chosen = bought.request.algorithm.server_optimizer
    stepper = Stepper(bought.plan, ServerOptimizer(**chosen.model_dump()))
    state = ServerState(trainers.initial_weights())
    for number in range(1, bought.plan.rounds + 1):
        state = stepper.step(state, number, source, ask)
        if watch is not None:
            watch(number, partial(trainers.evaluate, state.weights))
    return state


def trainers_of(task: TrainingTask, data: Registered, begin: Start) -> Trainers:
    """The sandboxes of a job."""
    opened = partial(_sandbox, begin)
    return Trainers(opened, task, data.store, data.test_store, lambda kill: None)


def task_of(bought: Bought, data: Registered, job_id: str) -> TrainingTask:
    """What the sandbox is told, on all cores, once the model is known to fit the data."""
    modelspec.check_fit(
        bought.request.model.architecture,
        loss=bought.request.loss,
        feature_shape=data.feature_shape,
        feature_dtype=data.feature_dtype,
        classes=data.manifest.classes,
    )
    declared: dict[str, Any] = {"manifest": data.manifest.model_dump(mode="json")}
    row = Dataset(**declared)
    task = training_task(job_id, bought.request, bought.plan, row)
    return task.model_copy(update={"shards": cores()})


def source_of(bought: Bought, seed: int) -> NoiseSource:
    """A job's randomness, by its seed alone."""
    key = hashlib.sha256(f"benchmark/{seed}".encode()).digest()
    return Silent(key) if bought.epsilon is None else NoiseSource(key)


def merged(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A body with some members replaced, objects member by member."""
    both = {
        name: merged(body[name], value)
        if isinstance(value, dict) and isinstance(body.get(name), dict)
        else value
        for name, value in changes.items()
    }
    return {**body, **both}


def _sandbox(begin: Start, task: TrainingTask, people: Data, public: Path | None) -> Sandbox:
    return Sandbox(task, people, test_store=public, start=begin)
