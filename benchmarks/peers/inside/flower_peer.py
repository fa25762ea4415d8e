"""Flower's side, run by its own interpreter: `flower_peer.py FOLDER`.

Its simulation on Ray with one actor a core. A person is a node; an actor keeps its Keras model from
client to client, and each client is the same `train_on_batch` loop as in the naive engine.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from typing import Any

import flwr
import numpy as np
from conversation import Given, answer
from flower_client import client_app, given
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)
from flwr.simulation import run_simulation

CORES = int(os.environ.get("PEER_CONCURRENCY", "2"))


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
    people = given()
    strategies = _strategies(people)

    def act(name: str) -> list[Any]:
        strategy, start = strategies[name], ArrayRecord(people.weights)
        messages: Iterable[Message] = strategy.configure_train(1, start, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
        if arrays is None:
            raise RuntimeError("Flower lost a client")
        return [
            people.clients * (new.astype(np.float64) - old)
            for new, old in zip(arrays.to_numpy_ndarrays(), people.weights, strict=True)
        ]

    acts = {name: functools.partial(act, name) for name in strategies}
    answer(acts, {"flwr": flwr.__version__})


def main(folder: str) -> None:
    """Start the simulation; it ends when nobody asks any more."""
    os.environ["PEER_FOLDER"] = folder  # read by the actors
    app = ServerApp()
    app.main()(_serve)
    run_simulation(
        app,
        client_app(),
        given().clients,
        backend_config={
            "init_args": {"num_cpus": CORES},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main(sys.argv[1])
