"""What one client computes, as graph code: minibatch training or one gradient.

The client's optimizer starts anew every time, so nothing passes from one client to the next. Raw
updates made here go straight into the clip of `worker.training.federated` and nowhere else; no
loss, count or timing of a client is kept.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from privacy_gateway.modelspec import size_of
from worker.task import ClientOptimizer, TrainingTask
from worker.training.algorithms.registry import ClientRows, LocalUpdate
from worker.training.models import Model

Tensors: TypeAlias = list[Any]
# (weights, gradients, slots, step counted from 1) → (weights, slots)
Rule: TypeAlias = Callable[[Tensors, Tensors, Tensors, Any], tuple[Tensors, Tensors]]

_MOMENTUM = 0.9
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-7
# Activations that are held at once; a larger batch is summed part by part. Without this bound the
# memory of a step grows with a client's examples, and running out of it would tell their number.
_BATCH_BYTES = 32 << 20
_SLOTS = {"sgd": 0, "momentum": 1, "adam": 2}


def minibatch_training(task: TrainingTask, model: Model, *, proximal_mu: float) -> LocalUpdate:
    """Local epochs of minibatch steps; the update is last weights − first weights."""
    rule = _rule(task.client_optimizer)
    slots_per_weight = _SLOTS[task.client_optimizer.name]
    part = _rows_at_once(task)
    # A plain step is a multiple of the gradient: scaling the loss saves a pass over all weights.
    plain = task.client_optimizer.name == "sgd" and not proximal_mu and part >= task.batch_size
    rate = task.client_optimizer.learning_rate

    def update(start_weights: Tensors, rows: ClientRows) -> Tensors:
        batches = -((rows.start - rows.stop) // task.batch_size)

        def step(number: Any, weights: Tensors, slots: Tensors) -> tuple[Any, Tensors, Tensors]:
            first = rows.start + (number % batches) * task.batch_size
            last = tf.minimum(first + task.batch_size, rows.stop)
            if plain:
                steps = _gradients(model, weights, rows, (first, last), number, scale=rate)
                moved = [w - step for w, step in zip(weights, steps, strict=True)]
                return number + 1, moved, slots
            if part < task.batch_size:
                gradients = _mean_gradient(model, weights, rows, (first, last), part, number)
            else:
                gradients = _gradients(model, weights, rows, (first, last), number)
            if proximal_mu:
                gradients = [
                    g + proximal_mu * (w - w0)
                    for g, w, w0 in zip(gradients, weights, start_weights, strict=True)
                ]
            weights, slots = rule(weights, gradients, slots, number + 1)
            return number + 1, weights, slots

        slots = [tf.zeros_like(w) for _ in range(slots_per_weight) for w in start_weights]
        _, weights, _ = tf.while_loop(
            lambda number, weights, slots: number < batches * task.local_epochs,
            step,
            (tf.constant(0), start_weights, slots),
            parallel_iterations=1,
        )
        return [w - w0 for w, w0 in zip(weights, start_weights, strict=True)]

    return update


def full_batch_gradient(task: TrainingTask, model: Model) -> LocalUpdate:
    """−η × the mean gradient over all of the client's examples."""
    part = _rows_at_once(task)
    rate = task.client_optimizer.learning_rate

    def update(weights: Tensors, rows: ClientRows) -> Tensors:
        whole = _mean_gradient(model, weights, rows, (rows.start, rows.stop), part, 0)
        return [-rate * g for g in whole]

    return update


def _rows_at_once(task: TrainingTask) -> int:
    """Examples whose activations are held together; see `_BATCH_BYTES`."""
    per_example = max(1, size_of(task.model).activation_bytes)
    return max(1, min(_BATCH_BYTES // per_example, 1 << 20))


def _mean_gradient(
    model: Model,
    weights: Tensors,
    rows: ClientRows,
    batch: tuple[Any, Any],
    part: int,
    step: Any,
) -> Tensors:
    """Gradient of the mean loss over a batch of any size, summed `part` examples at a time."""
    start, stop = batch
    count = tf.cast(tf.maximum(stop - start, 1), tf.float32)

    def add(first: Any, total: Tensors) -> tuple[Any, Tensors]:
        last = tf.minimum(first + part, stop)
        share = tf.cast(last - first, tf.float32) / count
        # Dropout must differ between the parts of one step.
        gradients = _gradients(model, weights, rows, (first, last), step * 4096 + first - start)
        return last, [t + share * g for t, g in zip(total, gradients, strict=True)]

    _, total = tf.while_loop(
        lambda first, total: first < stop,
        add,
        (start, [tf.zeros_like(w) for w in weights]),
        parallel_iterations=1,
    )
    return list(total)


def _gradients(
    model: Model,
    weights: Tensors,
    rows: ClientRows,
    part: tuple[Any, Any],
    step: Any,
    *,
    scale: float = 1.0,
) -> Tensors:
    """Gradient of the mean loss over one batch, times `scale`."""
    features, labels = rows.features[part[0] : part[1]], rows.labels[part[0] : part[1]]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        losses = model.loss(weights, features, labels, tf.stack([rows.seed, step]))
        loss = scale * tf.reduce_mean(losses) if scale != 1.0 else tf.reduce_mean(losses)
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    # An Embedding's gradient is sparse; the rules below want plain arrays.
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def _rule(optimizer: ClientOptimizer) -> Rule:
    rate = optimizer.learning_rate

    def sgd(weights: Tensors, gradients: Tensors, slots: Tensors, step: Any) -> Any:
        return [w - rate * g for w, g in zip(weights, gradients, strict=True)], slots

    def momentum(weights: Tensors, gradients: Tensors, slots: Tensors, step: Any) -> Any:
        slots = [_MOMENTUM * v + g for v, g in zip(slots, gradients, strict=True)]
        return [w - rate * v for w, v in zip(weights, slots, strict=True)], slots

    def adam(weights: Tensors, gradients: Tensors, slots: Tensors, step: Any) -> Any:
        means, squares = slots[: len(weights)], slots[len(weights) :]
        means = [_BETA1 * m + (1 - _BETA1) * g for m, g in zip(means, gradients, strict=True)]
        squares = [
            _BETA2 * s + (1 - _BETA2) * tf.square(g)
            for s, g in zip(squares, gradients, strict=True)
        ]
        power = tf.cast(step, tf.float32)
        scale = rate * tf.sqrt(1 - tf.pow(_BETA2, power)) / (1 - tf.pow(_BETA1, power))
        moved = [
            w - scale * m / (tf.sqrt(s) + _EPSILON)
            for w, m, s in zip(weights, means, squares, strict=True)
        ]
        return moved, [*means, *squares]

    return {"sgd": sgd, "momentum": momentum, "adam": adam}[optimizer.name]
