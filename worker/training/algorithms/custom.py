"""Local training that an operator installs, inside the same clipping boundary as our own.

A class of `Trainer` says how one client's data becomes one update, as graph code. Everything that
privacy rests on lies outside of it and does not change: the update is clipped to C, summed in
integers, noised on the trusted side, charged as its algorithm's event. So a trainer can be useless,
but it cannot make a client count for more. It runs in the sandbox, imports from the worker's own
packages alone, and is given one client's rows and nobody else's. Its graph may hold no operation
with a state: with a variable one person's records would reach others' updates, each of them clipped
to C, and `tf.debugging.assert_*` would fail by data, so that a job that dies by a record has told
about it.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import tensorflow as tf

from worker.task import Event, TrainingTask
from worker.training.algorithms.registry import ClientRows, LocalUpdate
from worker.training.models import Model

Tensors = list[Any]


class Trainer(ABC):
    """Base of installed local training; built once a job.

    Attributes:
        events: the mechanisms it may run under, as `worker.task.Event`; a class that declares none
            cannot be loaded.
    """

    events: ClassVar[tuple[Event, ...]] = ()

    def __init__(self, task: TrainingTask, model: Model) -> None:
        """Keep the job's public numbers and its model.

        Args:
            task: what the sandbox was told.
            model: loss and metrics as functions of the weights.
        """
        self.task = task
        self.model = model

    @abstractmethod
    def update(self, weights: Tensors, rows: ClientRows) -> Tensors:
        """One client's raw update, in the structure of the weights.

        Called once, while the graph is traced; loops over examples are `tf.while_loop`.

        Args:
            weights: the round's weights, float32 tensors.
            rows: the client's own rows alone, from `start` 0; there may be none at all, and the
                update is zero then, whatever is returned.

        Variables, assertions, printing, Python functions and random numbers but those of
        `tf.random.stateless_*` (from `rows.seed`) end the job before any data is touched.
        """


def local(task: TrainingTask, model: Model, shapes: Sequence[tuple[int, ...]]) -> LocalUpdate:
    """The task's trainer as a local update.

    Raises:
        LookupError: there is no such class, it is no `Trainer`, or it declares no event, another
            one than was priced, or an unknown one.
        ImportError: there is no such module.
    """
    module, _, name = (task.trainer or "").partition(":")
    made = getattr(importlib.import_module(module), name, None)
    if not isinstance(made, type) or not issubclass(made, Trainer):
        raise LookupError("no trainer of that name")  # noqa: TRY004 - the registry's own word
    declared = made.events
    if not declared or not set(declared) <= set(get_args(Event)) or task.event not in declared:
        raise LookupError("no trainer that declares the event that was priced")
    trainer: Trainer = made(task, model)

    def update(weights: Tensors, rows: ClientRows) -> Tensors:
        graph = tf.compat.v1.get_default_graph()
        own = _alone(rows)
        before = len(graph.get_operations())
        given = list(trainer.update(list(weights), own))
        _refuse_state(graph.get_operations()[before:])
        # Of the weights' own shapes, known before any data: a wrong one fails for every client.
        return [
            tf.ensure_shape(tf.cast(array, tf.float32), shape)
            for array, shape in zip(given, shapes, strict=True)
        ]

    return update


def _alone(rows: ClientRows) -> ClientRows:
    """The client's rows without the slice around them: a mean over that would mix people."""
    mine = slice(rows.start, rows.stop)
    count = rows.stop - rows.start
    return ClientRows(
        rows.features[mine], rows.labels[mine], tf.zeros_like(count), count, rows.seed
    )


def _refuse_state(operations: Sequence[Any]) -> None:
    """TypeError for what remembers, asks or fails; a loop or a call is what is inside of it."""
    kinds = {operation.type for operation in operations if _remembers(operation)}
    if kinds:
        raise TypeError(f"Expected a trainer without state, not {', '.join(sorted(kinds))}")


def _remembers(operation: Any) -> bool:
    return bool(operation.op_def.is_stateful) or operation.type.startswith("PyFunc")
