"""Sums of client updates that a product must never give away: unclipped, off the grid, in doubles.

For the comparison of engines on synthetic clients alone. `on_the_grid` is the engine as it is;
`off_the_grid` is its client training without clip and grid; `in_double_precision` is a separate
loop of Keras and GradientTape that shares only the architecture with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.inside.conversation import Given
from benchmarks.peers.workload import ROUND
from kit.ragged import RaggedStore
from worker.task import GRID, TrainingTask

Arrays = list[Any]


def on_the_grid(task: TrainingTask, store: Path, given: Given) -> Arrays:
    """The engine's integers of round 0, as numbers."""
    from worker.training import models
    from worker.training.algorithms import dp_fedavg  # noqa: F401 - registers itself
    from worker.training.algorithms.registry import algorithm_of
    from worker.training.federated import FederatedRound

    model = models.build(task)
    shapes = [weight.shape for weight in given.weights]
    opened = RaggedStore.open(store)
    engine = FederatedRound(task, opened, algorithm_of(task).local(task, model), shapes)
    sums = engine.sum_of(ROUND, np.arange(opened.clients), given.weights)
    return [total * (task.clip_norm / GRID) for total in sums]


def off_the_grid(task: TrainingTask, given: Given, *, clip_norm: float | None) -> Arrays:
    """The engine's own float32 updates, clipped or not, added in doubles."""
    import tensorflow as tf

    from worker.training import models
    from worker.training.algorithms import dp_fedavg  # noqa: F401 - registers itself
    from worker.training.algorithms.registry import ClientRows, algorithm_of

    local = algorithm_of(task).local(task, models.build(task))
    features, labels = _stored(given)
    signature = [
        [tf.TensorSpec(weight.shape, tf.float32) for weight in given.weights],
        tf.TensorSpec([None, *features.shape[1:]], features.dtype),
        tf.TensorSpec([None], labels.dtype),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def update(weights: Arrays, rows: Any, answers: Any) -> Arrays:
        zero = tf.constant(0)
        return local(weights, ClientRows(rows, answers, zero, tf.shape(answers)[0], zero))

    def one(number: int) -> Arrays:
        part = slice(int(given.offsets[number]), int(given.offsets[number + 1]))
        return [a.numpy() for a in update(given.weights, features[part], labels[part])]

    return _added(given, one, clip_norm)


def in_double_precision(task: TrainingTask, given: Given, *, clip_norm: float | None) -> Arrays:
    """Plain minibatch SGD of each client in float64."""
    import keras
    import tensorflow as tf

    from worker.training import models

    policy = keras.config.dtype_policy()
    # The width of floats alone would leave layers at the policy that an earlier model has set.
    keras.config.set_dtype_policy("float64")
    try:
        model, variables = models.build_keras(task.model, logits_for=task.loss)
    finally:
        keras.config.set_dtype_policy(policy)
    states = [tf.constant(variable.value) for variable in model.non_trainable_variables]
    order = [id(variable) for variable in variables]
    places = [order.index(id(weight)) for weight in model.trainable_weights]
    features, labels = given.features, given.labels
    # All engines hold the rate as a float32.
    rate = float(np.float32(task.client_optimizer.learning_rate))

    @tf.function(autograph=False, reduce_retracing=True)
    def step(weights: Arrays, rows: Any, answers: Any) -> Arrays:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            ordered = [weights[place] for place in places]
            outputs, _ = model.stateless_call(ordered, states, rows, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(answers, outputs)
            loss = tf.reduce_mean(losses)
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)]
        return [w - rate * g for w, g in zip(weights, gradients, strict=True)]

    def one(number: int) -> Arrays:
        begin, end = int(given.offsets[number]), int(given.offsets[number + 1])
        weights = [tf.constant(weight, tf.float64) for weight in given.weights]
        for first in range(begin, end, task.batch_size):
            part = slice(first, min(first + task.batch_size, end))
            weights = step(weights, _wide(features[part]), np.asarray(labels[part]))
        return [w.numpy() - old for w, old in zip(weights, given.weights, strict=True)]

    return _added(given, one, clip_norm)


def _added(given: Given, update: Any, clip_norm: float | None) -> Arrays:
    """Sum over all clients, in doubles, each scaled to the norm where there is one."""
    total = [np.zeros(weight.shape) for weight in given.weights]
    for number in range(given.clients):
        arrays = [np.asarray(array, np.float64) for array in update(number)]
        norm = float(np.sqrt(sum(np.sum(np.square(array)) for array in arrays)))
        share = 1.0 if clip_norm is None else min(1.0, clip_norm / max(norm, 1e-300))
        for sums, array in zip(total, arrays, strict=True):
            sums += share * array
    return total


def _stored(given: Given) -> tuple[Any, Any]:
    """Rows as the store holds them: flat."""
    count = len(given.labels)
    return np.asarray(given.features).reshape(count, -1), np.asarray(given.labels)


def _wide(rows: Any) -> Any:
    return np.asarray(rows, np.float64) if rows.dtype.kind == "f" else np.asarray(rows)
