"""From a ModelSpec to a Keras model and a loss, nothing a researcher wrote in between.

Only layers of the allow-list are built, with arguments that were validated and measured before
this process started. Data must not be able to make an operation fail: labels and embedding
indices out of range are moved into range, so that a hostile record spoils its own client only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from privacy_gateway import keras_converter
from privacy_gateway.keras_converter import Arguments
from privacy_gateway.layers import Embedding
from privacy_gateway.modelspec import ModelSpec
from worker.task import Metric, TrainingTask
from worker.training import fused, pooling

Tensors: TypeAlias = list[Any]
# Final activations that the loss undoes: it is computed from logits, where it cannot overflow.
_LOGITS_OF = {"sparse_categorical_crossentropy": "softmax", "binary_crossentropy": "sigmoid"}


@dataclass(frozen=True)
class Model:
    """A built model as pure functions of its weights.

    Attributes:
        shapes: of the weights, in the order of the specification's layers.
        loss: `(weights, features, labels, seed)` → loss of each example, float32 (batch,); dropout
            is on and draws from `seed` (int32 pair).
        metrics: `(weights, features, labels)` → per-example values in the order of `metric_names`.
    """

    shapes: list[tuple[int, ...]]
    loss: Callable[[Tensors, Any, Any, Any], Any]
    metrics: Callable[[Tensors, Any, Any], Tensors]
    metric_names: tuple[str, ...]


def first_weights(task: TrainingTask) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """First weights of the task's model, by its public seed; in the order of the layers."""
    keras.utils.set_random_seed(task.initial_seed)
    _, variables = build_keras(task.model)
    return [np.asarray(variable.value, np.float32) for variable in variables]


def build(task: TrainingTask, *, scale: float = 1.0) -> Model:
    """Build the task's model as functions of weights that come from elsewhere.

    `scale` is the store's public factor for features, see `kit.ragged.Column`.
    """
    # Nothing is given a value: each first operation of a kind costs milliseconds.
    with keras.StatelessScope(initialize_variables=False):
        model, variables = build_keras(task.model, logits_for=task.loss)
    fused.take_over(model)
    pooling.take_over(model)
    # Keras sorts the weights of a graph by depth; the specification lists them by layer.
    weight_order = [id(variable) for variable in variables]
    places = [weight_order.index(id(weight)) for weight in model.trainable_weights]
    seeds = [tf.as_dtype(variable.dtype) for variable in model.non_trainable_variables]

    def predict(weights: Tensors, features: Any, seed: Any, *, training: bool) -> Any:
        states = [_seed_state(seed, k, dtype) for k, dtype in enumerate(seeds)]
        inputs = _as_input(features, task.model, scale)
        ordered = [weights[place] for place in places]
        # Keras would give every variable its value at the end of a scope that is not inside one.
        with keras.StatelessScope(initialize_variables=False):
            outputs, _ = model.stateless_call(ordered, states, inputs, training=training)
        return outputs

    def loss(weights: Tensors, features: Any, labels: Any, seed: Any) -> Any:
        return per_example_loss(task.loss, predict(weights, features, seed, training=True), labels)

    names = task.metric_names

    def metrics(weights: Tensors, features: Any, labels: Any) -> Tensors:
        outputs = predict(weights, features, tf.zeros(2, tf.int32), training=False)
        return [_metric(name, task, outputs, labels) for name in names]

    return Model([tuple(variable.shape) for variable in variables], loss, metrics, names)


def build_keras(spec: ModelSpec, *, logits_for: str = "") -> tuple[Any, list[Any]]:
    """The Keras model of a spec, and its weights in the order of the spec's layers.

    A final activation that the loss `logits_for` undoes is left out.
    """
    last = len(spec.layers) - 1

    def safe(index: int, arguments: Arguments, sources: Tensors) -> tuple[Arguments, Tensors]:
        layer = spec.layers[index]
        if index == last and arguments.get("activation") == _LOGITS_OF.get(logits_for, ""):
            arguments = arguments | {"activation": "linear"}
        if isinstance(layer, Embedding):
            sources = [keras.ops.clip(source, 0, layer.input_dim - 1) for source in sources]
        return arguments, sources

    return keras_converter.built(spec, safe)


def per_example_loss(loss: str, outputs: Any, labels: Any) -> Any:
    """Loss of each example, averaged over whatever axes an example has; shape (batch,).

    For the cross-entropies the outputs are logits: `build_keras` left a final softmax or sigmoid
    out, and any other activation is judged as it stands.
    """
    if loss == "sparse_categorical_crossentropy":
        inside = tf.clip_by_value(tf.cast(labels, tf.int32), 0, outputs.shape[-1] - 1)
        inside = tf.reshape(inside, tf.shape(outputs)[:-1])
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(inside, outputs)
    elif loss == "binary_crossentropy":
        targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(outputs))
        targets = tf.clip_by_value(targets, 0.0, 1.0)
        values = tf.nn.sigmoid_cross_entropy_with_logits(targets, outputs)
    else:
        targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(outputs))
        values = tf.square(outputs - targets)
    return _mean_per_example(values)


def _metric(name: str | Metric, task: TrainingTask, outputs: Any, labels: Any) -> Any:
    """Per-example value of one metric."""
    if name == "loss":
        return per_example_loss(task.loss, outputs, labels)
    guesses = _predictions(task.loss, outputs, whole=name == "accuracy")
    targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(guesses))
    if name == "mean_absolute_error":
        return _mean_per_example(tf.abs(guesses - targets))
    return _mean_per_example(tf.cast(tf.equal(guesses, targets), tf.float32))


def _predictions(loss: str, outputs: Any, *, whole: bool) -> Any:
    """What the model says in the labels' own units; `whole` rounds it to a class."""
    if loss == "sparse_categorical_crossentropy":
        return tf.cast(tf.argmax(outputs, axis=-1), tf.float32)
    values = tf.sigmoid(outputs) if loss == "binary_crossentropy" else outputs
    return tf.round(values) if whole else values


def _mean_per_example(values: Any) -> Any:
    """Mean over all axes but the first."""
    if values.shape.rank == 1:
        return values
    return tf.reduce_mean(tf.reshape(values, [tf.shape(values)[0], -1]), axis=1)


def _as_input(features: Any, spec: ModelSpec, scale: float) -> Any:
    """Stored rows under the model's own shape and dtype, times the store's factor."""
    shaped = tf.cast(tf.reshape(features, [-1, *spec.input.shape]), spec.input.dtype)
    return shaped * scale if scale != 1.0 and spec.input.dtype == "float32" else shaped


def _seed_state(seed: Any, layer: int, dtype: Any) -> Any:
    """Seed of one dropout layer at one step of one client."""
    return tf.cast(seed + tf.constant([layer * 7919, 0]), dtype)
