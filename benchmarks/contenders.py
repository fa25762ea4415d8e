"""Engines that train a cohort, each in a process of its own with its own TensorFlow.

`flat` is the house's engine alone; `naive` is the loop everybody writes first: Keras, one client
after the other, `train_on_batch`. Both are given the same rows in the same order and clip alike,
so their sums must agree.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.ragged import RaggedStore
from worker import start
from worker.task import GRID, TrainingTask

Vector = npt.NDArray[np.float64]
Round = Callable[[int], Vector]


@dataclass(frozen=True, slots=True)
class Lap:
    """One round: seconds on the wall, seconds of processors, the clipped sum."""

    seconds: float
    processor_seconds: float
    total: Vector


class Contender:
    """The parent's end of an engine's process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def lap(self, number: int) -> Lap:
        """Run one round over all clients."""
        self._pipe.send(number)
        lap: Lap = self._answer()
        return lap

    def peak(self) -> float:
        """Operations a second and core of a large matrix product here."""
        self._pipe.send("peak")
        return float(self._answer())

    def _answer(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)  # noqa: TRY004 - what the child said, not a wrong type
        return answer


@contextmanager
def contender(kind: str, task: TrainingTask, store: Path) -> Iterator[Contender]:
    """Start `flat` or `naive` on a store; ended with the block."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    child = spawning.Process(
        target=_serve, args=(theirs, kind, task.as_dict(), str(store)), daemon=True
    )
    with _environment(kind):
        child.start()
    theirs.close()
    try:
        yield Contender(ours)
    finally:
        ours.close()
        child.join(10)
        child.kill()


@contextmanager
def _environment(kind: str) -> Iterator[None]:
    """What a program reads before its first line: the house's engine is given a sandbox's."""
    name = "GLIBC_TUNABLES"
    if kind == "naive":
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = start.environment()[name]
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _serve(pipe: Connection, kind: str, task: dict[str, Any], store: str) -> None:
    """In the child: answer rounds until the other end is gone."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        prepare = {"flat": _flat, "clip": _clip, "naive": _naive}[kind]
        prepared = prepare(TrainingTask.model_validate(task), RaggedStore.open(Path(store)))
        while True:
            asked = pipe.recv()
            pipe.send(_peak() if asked == "peak" else _lap(prepared, asked))
    except EOFError:
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _lap(prepare: Callable[[int], Callable[[], Vector]], number: int) -> Lap:
    run = prepare(number)
    started, used = time.perf_counter(), time.process_time()
    total = run()
    return Lap(time.perf_counter() - started, time.process_time() - used, total)


def _flat(
    task: TrainingTask, store: RaggedStore, *, train: bool = True
) -> Callable[[int], Callable[[], Vector]]:
    """The house's engine, set up as launcher and `worker.training.session` do."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    from worker.training import models, runtime
    from worker.training.algorithms import dp_fedavg  # noqa: F401 - registers itself
    from worker.training.algorithms.registry import algorithm_of
    from worker.training.federated import FederatedRound

    runtime.configure(task)
    model = models.build(task)
    local = algorithm_of(task).local(task, model) if train else _made_up
    engine = FederatedRound(task, store, local, model.shapes)
    weights = models.first_weights(task)
    everybody = np.arange(store.clients)

    def run(number: int) -> Vector:
        sums = engine.sum_of(number, everybody, weights)
        return _flatten(sums) * task.clip_norm / GRID

    return lambda number: lambda: run(number)


def _clip(task: TrainingTask, store: RaggedStore) -> Callable[[int], Callable[[], Vector]]:
    """The same, but no client trains."""
    return _flat(task, store, train=False)


def _made_up(weights: list[Any], rows: Any) -> list[Any]:
    """An update that is new for every client, so that nothing is computed once for all."""
    import tensorflow as tf

    return [weight * tf.cast(rows.seed, tf.float32) for weight in weights]


def _naive(task: TrainingTask, store: RaggedStore) -> Callable[[int], Callable[[], Vector]]:
    """`train_on_batch`, with TensorFlow's own choice of threads."""
    import keras

    from worker.training import clients, models

    keras.utils.set_random_seed(task.initial_seed)
    model, variables = models.build_keras(task.model, logits_for=task.loss)
    by_id = {id(weight): place for place, weight in enumerate(model.weights)}
    places = [by_id[id(variable)] for variable in variables]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(task.client_optimizer.learning_rate), loss)
    start = model.get_weights()

    def prepare(number: int) -> Callable[[], Vector]:
        # Reading and shuffling the rows is not what is compared.
        people = [_rows_of(clients, task, store, client, number) for client in range(store.clients)]
        return lambda: run(people)

    def run(people: list[Any]) -> Vector:
        total = np.zeros(sum(weight.size for weight in start))
        for features, labels in people:
            model.set_weights(start)
            for first in range(0, len(labels), task.batch_size):
                part = slice(first, first + task.batch_size)
                model.train_on_batch(features[part], labels[part])
            moved = [new - old for new, old in zip(model.get_weights(), start, strict=True)]
            update = _flatten([moved[place] for place in places])
            total += update * min(1.0, task.clip_norm / max(float(np.linalg.norm(update)), 1e-300))
        return total

    return prepare


def _rows_of(clients: Any, task: TrainingTask, store: RaggedStore, client: int, number: int) -> Any:
    """One client's rows in the order in which the engine takes them in this round."""
    (part,) = clients.slices(
        store,
        np.array([client]),
        columns=(task.features, task.label),
        cap=task.examples_per_client,
        seed=task.initial_seed,
        round_number=number,
    )
    return part.features.reshape(-1, *task.model.input.shape), part.labels


def _peak(size: int = 1024, runs: int = 5) -> float:
    """Operations a second and core of the library's own matrix product."""
    import tensorflow as tf

    left, right = tf.random.normal([size, size]), tf.random.normal([size, size])
    tf.matmul(left, right).numpy()
    used = time.process_time()
    for _ in range(runs):
        tf.matmul(left, right).numpy()
    return 2.0 * size**3 * runs / (time.process_time() - used)


def _flatten(arrays: list[Any]) -> Vector:
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
