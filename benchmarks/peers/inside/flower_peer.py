"""Flower's side, run by its own interpreter: `flower_peer.py FOLDER`.

Its simulation on Ray with one actor a core. A person is a node; an actor keeps its Keras model from
client to client, and each client is the same `train_on_batch` loop as in the naive engine.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)

import flwr  # noqa: E402
from conversation import Given, answer  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import (  # noqa: E402
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)
from flwr.simulation import run_simulation  # noqa: E402

CORES = int(os.environ.get("PEER_CONCURRENCY", "2"))
FOLDER = Path(os.environ["PEER_FOLDER"]) if "PEER_FOLDER" in os.environ else Path(sys.argv[1])


@functools.cache
def _given() -> Given:
    return Given(FOLDER)


@functools.cache
def _keras_model() -> Any:
    """One model an actor, compiled once."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    task = _given().task
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
    given, model = _given(), _keras_model()
    model.set_weights(message.content["arrays"].to_numpy_ndarrays())
    features, labels = given.client(int(context.node_config["partition-id"]))
    batch = given.task["batch_size"]
    for first in range(0, len(labels), batch):
        model.train_on_batch(features[first : first + batch], labels[first : first + batch])
    content = {
        "arrays": ArrayRecord(model.get_weights()),
        # Everybody counts the same, as in the other engines.
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)


def _client_app() -> ClientApp:
    app = ClientApp()
    app.train()(_train)
    return app


def _strategies(given: Given) -> dict[str, Strategy]:
    def plain() -> FedAvg:
        people = given.clients
        return FedAvg(1.0, 0.0, min_train_nodes=people, min_available_nodes=people)

    clip, noise = given.task["clip_norm"], given.task["noise_multiplier"]
    private = DifferentialPrivacyServerSideFixedClipping
    return {
        "plain": plain(),
        "private": private(plain(), noise, clip, given.clients),
        "clipped": private(plain(), 0.0, clip, given.clients),
    }


def _serve(grid: Grid, context: Context) -> None:
    """The server: a round whenever one is asked for, always from the same weights."""
    given = _given()
    strategies = _strategies(given)

    def act(name: str) -> list[Any]:
        strategy, start = strategies[name], ArrayRecord(given.weights)
        messages: Iterable[Message] = strategy.configure_train(1, start, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
        if arrays is None:
            raise RuntimeError("Flower lost a client")
        return [
            given.clients * (new.astype(np.float64) - old)
            for new, old in zip(arrays.to_numpy_ndarrays(), given.weights, strict=True)
        ]

    acts = {name: functools.partial(act, name) for name in strategies}
    answer(acts, {"flwr": flwr.__version__})


def main() -> None:
    """Start the simulation; it ends when nobody asks any more."""
    os.environ["PEER_FOLDER"] = str(FOLDER)  # read by the actors
    app = ServerApp()
    app.main()(_serve)
    run_simulation(
        app,
        _client_app(),
        _given().clients,
        backend_config={
            "init_args": {"num_cpus": CORES, "_node_ip_address": "127.0.0.1"},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
