"""One person of Flower's simulation; imported by its actors, which find it by this name."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from conversation import Given
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp


@functools.cache
def given() -> Given:
    return Given(Path(os.environ["PEER_FOLDER"]))


@functools.cache
def _keras_model() -> Any:
    """One model an actor, compiled once."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    task = given().task
    values = inputs = keras.Input(shape=task["shape"], dtype=task["dtype"])
    last = len(task["layers"]) - 1
    for place, layer in enumerate(task["layers"]):
        arguments = {name: value for name, value in layer.items() if name != "type"}
        if place == last:
            arguments["activation"] = "linear"  # the loss is computed from logits
        values = getattr(keras.layers, layer["type"])(**arguments)(values)
    model = keras.Model(inputs, values)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(task["learning_rate"]), loss)
    return model


def _train(message: Message, context: Context) -> Message:
    """One person's round."""
    people, model = given(), _keras_model()
    model.set_weights(message.content["arrays"].to_numpy_ndarrays())
    features, labels = people.client(int(context.node_config["partition-id"]))
    batch = people.task["batch_size"]
    for first in range(0, len(labels), batch):
        model.train_on_batch(features[first : first + batch], labels[first : first + batch])
    content = {
        "arrays": ArrayRecord(model.get_weights()),
        # Everybody counts the same, as in the other engines.
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)


def client_app() -> ClientApp:
    app = ClientApp()
    app.train()(_train)
    return app
