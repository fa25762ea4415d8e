"""What a peer's process says to the benchmark: one JSON line in, one JSON line out.

Runs in environments of the peers as well as in the project's own, so it uses the standard library
and NumPy alone. Whatever an engine prints goes elsewhere: answers have a descriptor of their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Runs one round from the given weights; its arrays are flattened only when a sum is asked for.
Act = Callable[[], Sequence[Any]]


class Given:
    """The folder that `benchmarks.peers.workload.export` wrote."""

    def __init__(self, folder: Path) -> None:
        self.task: dict[str, Any] = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        self.features, self.labels, self.offsets = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("features", "labels", "offsets")
        )
        self.features = self.features.reshape(-1, *self.task["shape"])
        self.weights = [
            np.load(folder / f"weight-{place}.npy") for place in range(self.task["weights"])
        ]
        self.clients = int(self.task["clients"])

    def client(self, number: int) -> tuple[Any, Any]:
        """Rows and labels of one client."""
        part = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        return self.features[part], self.labels[part]


def answer(acts: Mapping[str, Act], versions: Mapping[str, str]) -> None:
    """Say that all is ready, then run what is asked for until nobody asks."""
    with os.fdopen(int(os.environ["PEER_ANSWERS"]), "w", buffering=1) as out:
        out.write(json.dumps({"versions": dict(versions)}) + "\n")
        for line in sys.stdin:
            out.write(json.dumps(_one(acts, json.loads(line))) + "\n")


def _one(acts: Mapping[str, Act], asked: Mapping[str, str]) -> dict[str, Any]:
    try:
        started = time.perf_counter()
        arrays = acts[asked["act"]]()
        seconds = time.perf_counter() - started
        if asked.get("path"):
            total = np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
            np.save(asked["path"], total, allow_pickle=False)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"seconds": seconds}
