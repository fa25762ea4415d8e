"""TensorFlow Federated's side, run by its own interpreter: `tff_peer.py FOLDER`.

The fastest set-up that was found: its C++ runtime on all cores, a functional model whose forward
pass is written with plain operations, no metrics, `dataset.reduce`; datasets are made once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from conversation import Act, Given, answer

Tensors = Sequence[Any]


class Keep(tff.learning.optimizers.Optimizer):
    """A server optimizer that leaves the mean update where the weights were.

    Adding it to the weights and taking the weights away again would cost digits.
    """

    def initialize(self, specs: Any) -> Any:
        return ()

    def next(self, state: Any, weights: Any, gradients: Any) -> tuple[Any, Any]:
        return state, tf.nest.map_structure(tf.negative, gradients)


def main(folder: Path) -> None:
    """Build the learning processes and answer."""
    given = Given(folder)
    tff.backends.native.set_sync_local_cpp_execution_context(
        max_concurrent_computation_calls=int(os.environ.get("PEER_CONCURRENCY", "2"))
    )
    clip, noise = given.task["clip_norm"], given.task["noise_multiplier"]
    private = tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed
    acts = {
        "plain": _round(given, "float32", None),
        "private": _round(given, "float32", private(noise, float(given.clients), clip)),
        # No noise: what is compared is the clipped sum.
        "clipped": _round(given, "float32", private(0.0, float(given.clients), clip)),
        "double": _round(given, "float64", None),
    }
    answer(acts, {"tensorflow-federated": tff.__version__, "tensorflow": tf.__version__})


def _round(given: Given, dtype: str, aggregator: Any) -> Act:
    """One round over all clients; gives the sum of their updates. Built when first asked for."""
    made: list[Any] = []

    def act() -> list[Any]:
        if not made:
            made.append(_prepared(given, dtype, aggregator))
        process, state, data = made[0]
        weights = process.get_model_weights(process.next(state, data).state)
        return [given.clients * np.asarray(array, np.float64) for array in weights.trainable]

    return act


def _prepared(given: Given, dtype: str, aggregator: Any) -> tuple[Any, Any, list[Any]]:
    process = tff.learning.algorithms.build_unweighted_fed_avg(
        model_fn=_model(given, dtype),
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(given.task["learning_rate"]),
        server_optimizer_fn=Keep(),
        model_aggregator=aggregator,
    )
    batch = given.task["batch_size"]
    data = []
    for number in range(given.clients):
        features, labels = given.client(number)
        if given.task["dtype"] == "float32":
            features = features.astype(dtype)
        rows = tf.data.Dataset.from_tensor_slices((np.asarray(features), np.asarray(labels)))
        data.append(rows.batch(batch))
    return process, process.initialize(), data


def _model(given: Given, dtype: str) -> Any:
    """The architecture as a function of its weights."""
    task = given.task
    features = dtype if task["dtype"] == "float32" else task["dtype"]
    spec = (tf.TensorSpec([None, *task["shape"]], features), tf.TensorSpec([None], tf.int32))

    @tf.function
    def predict(weights: Any, rows: Any, training: bool) -> Any:
        left, values = list(weights[0]), rows
        for layer in task["layers"]:
            used = COUNTS.get(layer["type"], 0)
            values = FORWARD[layer["type"]](layer, left[:used], values)
            left = left[used:]
        return values

    def loss(outputs: Any, labels: Any, sample_weight: Any = None) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs))

    return tff.learning.models.FunctionalModel(
        initial_weights=(tuple(array.astype(dtype) for array in given.weights), ()),
        predict_on_batch_fn=predict,
        loss_fn=loss,
        input_spec=spec,
    )


def _activated(layer: dict[str, Any], values: Any) -> Any:
    # The loss is computed from logits.
    return tf.nn.relu(values) if layer.get("activation") == "relu" else values


def _dense(layer: dict[str, Any], weights: Tensors, values: Any) -> Any:
    return _activated(layer, tf.matmul(values, weights[0]) + weights[1])


def _convolution(layer: dict[str, Any], weights: Tensors, values: Any) -> Any:
    made = tf.nn.conv2d(values, weights[0], layer["strides"], layer["padding"].upper())
    return _activated(layer, tf.nn.bias_add(made, weights[1]))


def _pooling(layer: dict[str, Any], weights: Tensors, values: Any) -> Any:
    return tf.nn.max_pool2d(values, layer["pool_size"], layer["strides"], layer["padding"].upper())


def _flat(layer: dict[str, Any], weights: Tensors, values: Any) -> Any:
    return tf.reshape(values, [-1, int(np.prod(values.shape[1:]))])


def _embedding(layer: dict[str, Any], weights: Tensors, values: Any) -> Any:
    return tf.gather(weights[0], values)


def _lstm(layer: dict[str, Any], weights: Tensors, values: Any) -> Any:
    """Gates in Keras' order; products with the inputs for all steps at once, steps unrolled."""
    kernel, recurrent, bias = weights
    inputs = tf.unstack(tf.tensordot(values, kernel, 1) + bias, axis=1)
    hidden = cell = tf.zeros([tf.shape(values)[0], layer["units"]], values.dtype)
    for given in inputs:
        gates = tf.split(given + tf.matmul(hidden, recurrent), 4, axis=1)
        enter, forget, leave = (tf.sigmoid(gates[place]) for place in (0, 1, 3))
        cell = forget * cell + enter * tf.tanh(gates[2])
        hidden = leave * tf.tanh(cell)
    return hidden


FORWARD: dict[str, Callable[[dict[str, Any], Tensors, Any], Any]] = {
    "Dense": _dense,
    "Conv2D": _convolution,
    "MaxPooling2D": _pooling,
    "Flatten": _flat,
    "Embedding": _embedding,
    "LSTM": _lstm,
}
COUNTS = {"Dense": 2, "Conv2D": 2, "Embedding": 1, "LSTM": 3}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
