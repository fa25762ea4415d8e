"""A training without a gateway: the worker's own rounds on data that are the caller's to use.

Plan, price, cohorts, clipping, noise and server step are those of a job; what is missing is
everything that protects people from whoever runs it: nobody is asked, nothing is charged or written
down. So it is for made-up and for one's own records, and must never be reached from a gateway. The
sandbox is used where the machine can close one, and is only a process where it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from accounting import curve
from accounting.plan import TrainingPlan, plan_of
from jobs import floors, runnable
from jobs.tables_datasets import Dataset
from kit import ragged
from privacy_gateway import modelspec, schemas
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.schemas import JobRequest
from worker.aggregate import ServerOptimizer, ServerState, Weights
from worker.launcher import Sandbox, SandboxFailed
from worker.noise import NoiseSource
from worker.orders import training_task
from worker.start import Execute
from worker.steps import Stepper
from worker.task import TrainingTask

Array = npt.NDArray[Any]
Rows = Mapping[str, Array]

DELTA = 1e-5
_COLUMNS = ("features", "label")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a gateway would have released, and what it would have cost.

    Attributes:
        weights: float32, in the order of the specification's layers.
        metrics: in the clear, on the test records, or on the training's own without any.
        epsilon: stand-alone, at `delta`.
        delta: as given, or the least of 1e-5 and 1/(10 N).
    """

    weights: Weights
    metrics: dict[str, float]
    epsilon: float
    delta: float


def train(
    body: Mapping[str, Any],
    data: Rows,
    *,
    test: Rows | None = None,
    delta: float | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Run a training job's rounds here.

    Args:
        body: a job body; `dataset` is not looked at.
        data: `features` (rows, …), `label` (rows,), `client` (rows,), whose record it is.
        test: `features` and `label` to measure on.
        delta: of the price that is told.
        told: called with the number of each finished round.

    Raises:
        Refused: what a gateway would refuse of the request itself; `invalid_request` for data that
            are no columns of finite numbers of one length, for classes that the model has no score
            for, or for an impossible δ; `unavailable` when the training process failed.
    """
    request = schemas.parse(JobRequest, dict(body) | {"dataset": "local"})
    _refuse(request)
    people = _by_client(data)
    shown = people.rows if test is None else _columns(test, "test")
    plan = plan_of(request, clients=len(people.sizes))
    at = min(DELTA, 1 / (10 * plan.population_clients)) if delta is None else delta
    if not 0 < at < 1:
        raise invalid("delta", "is a probability between 0 and 1", value=at)
    epsilon = curve.standalone_epsilon(plan.mechanism, plan.charge_units, at)
    for what, rows in (("data", people.rows), ("test", shown)):
        _check_fit(request, rows, what)
    constants = SimpleNamespace(manifest={"examples_per_client": max(people.sizes)})
    task = training_task("local", request, plan, cast("Dataset", constants))
    with TemporaryDirectory() as home:
        stores = Path(home, "people"), Path(home, "test")
        ragged.write(stores[0], people.rows, list(people.sizes))
        ragged.write(stores[1], shown, [len(shown["label"])])
        try:
            weights, metrics = _rounds(request, plan, task, stores, told)
        except SandboxFailed as failed:
            detail = f"the training process failed: {failed.code}"
            raise Refused("unavailable", detail) from failed
    return Outcome(weights, metrics, epsilon, at)


@dataclass(frozen=True, slots=True)
class _People:
    """Rows of all people, each one's together, and how many each has."""

    rows: dict[str, Array]
    sizes: tuple[int, ...]


def _refuse(request: JobRequest) -> None:
    """What makes no sense here, and what no worker could run."""
    if request.kind != "train":
        raise invalid("kind", "only training runs without a gateway", value=request.kind)
    if request.initial is not None:
        raise invalid("initial", "names weights at a gateway, and there is none")
    if request.algorithm.trainer is not None:
        raise invalid("algorithm.trainer", "is installed at a gateway, and there is none")
    runnable.refuse(request)
    floors.refuse_proximal_mu(request.algorithm)


def _by_client(data: Rows) -> _People:
    """Everybody's records side by side."""
    if "client" not in data:
        raise invalid("data.client", "is missing")
    columns, client = _columns(data, "data"), np.asarray(data["client"])
    if client.shape != columns["label"].shape[:1] or not len(client):
        raise invalid("data.client", "says of each record whose it is")
    order = np.argsort(client, kind="stable")
    _, sizes = np.unique(client, return_counts=True)
    rows = {name: column[order] for name, column in columns.items()}
    return _People(rows, tuple(int(size) for size in sizes))


def _columns(rows: Rows, what: str) -> dict[str, Array]:
    """Features and labels as a store takes them."""
    for name in _COLUMNS:
        if name not in rows:
            raise invalid(f"{what}.{name}", "is missing")
    columns = {name: _numbers(rows[name], f"{what}.{name}") for name in _COLUMNS}
    count = len(columns["features"])
    if columns["label"].shape != (count,):
        raise invalid(f"{what}.label", f"is not {count} numbers, one for each record")
    return columns


def _numbers(given: Any, field: str) -> Array:
    """One column; floats as float32, like those of a file that is registered at a gateway."""
    column = np.asarray(given)
    if column.dtype.kind not in "fiu" or not column.ndim:
        raise invalid(field, "is no array of numbers")
    if column.dtype.kind == "f":
        with np.errstate(over="ignore"):
            column = column.astype(np.float32)
        if not np.isfinite(column).all():
            raise invalid(field, "has numbers that are not finite")
        return column
    return column if str(column.dtype) in ragged.DTYPES else column.astype(np.int64)


def _check_fit(request: JobRequest, rows: Rows, what: str) -> None:
    """The model takes these rows, as a gateway would ask."""
    features, label, spec = rows["features"], rows["label"], request.model.architecture
    size = modelspec.measure(spec)
    modelspec.check_fit(
        spec,
        loss=request.loss,
        feature_shape=features.shape[1:],
        feature_dtype=str(features.dtype),
    )
    scores = size.output_shape[-1]
    if request.loss == "sparse_categorical_crossentropy" and not _classes(label, scores):
        raise invalid(f"{what}.label", f"is no class, 0 to {scores - 1}, for each record")


def _classes(label: Array, count: int) -> bool:
    """Whether all are whole numbers below `count`."""
    return bool(((label >= 0) & (label < count) & (label == np.floor(label))).all())


def _rounds(
    request: JobRequest,
    plan: TrainingPlan,
    task: TrainingTask,
    stores: tuple[Path, Path],
    told: Callable[[int], None],
) -> tuple[Weights, dict[str, float]]:
    """The rounds, one after the other."""
    optimizer = ServerOptimizer(**request.algorithm.server_optimizer.model_dump())
    stepper = Stepper(plan, optimizer)
    begin = Execute(insecure=True)
    with Sandbox(task, stores[0], test_store=stores[1], start=begin) as sandbox:
        state = ServerState(sandbox.initial_weights())
        for number in range(1, plan.rounds + 1):
            state = stepper.step(state, number, NoiseSource(), sandbox.round)
            told(number)
        return state.weights, sandbox.evaluate(state.weights)
