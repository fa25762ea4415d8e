"""What all engines are given: one folder of plain arrays and one JSON file, no pickles.

Rows are written in the order in which the house's engine takes them in round 0, so that every
engine makes the same minibatches and their sums can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import models
from benchmarks.models import CLIP_NORM, Model, client_sizes
from kit import ragged
from kit.ragged import RaggedStore
from worker.launcher import Sandbox
from worker.task import TrainingTask
from worker.training import clients as cohort_clients

ROUND = 0
VOCABULARY, STEPS = 90, 80
NOISE_MULTIPLIER = 1.0
# Low enough that many clients are really clipped.
CLIP = 0.1

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Characters(Model):
    """Sequences of characters and the one that follows, instead of pictures."""

    def store(self, folder: Path, *, divided_by: int = 1) -> Path:
        directory = folder / self.name.replace(" ", "-")
        sizes = client_sizes(max(4, self.clients // divided_by))
        generator, examples = np.random.default_rng(2), int(sizes.sum())
        rows = {
            "features": generator.integers(0, VOCABULARY, (examples, STEPS)).astype(np.int32),
            "label": generator.integers(0, VOCABULARY, examples).astype(np.int32),
        }
        ragged.write(directory, rows, sizes)
        return directory

    def task(self, *, shards: int = 1) -> TrainingTask:
        body = {
            "model": {
                "input": {"shape": list(self.shape), "dtype": "int32"},
                "layers": list(self.layers),
            },
            "algorithm": "dp_fedavg",
            "clip_norm": CLIP_NORM,
            "batch_size": 20,
            "client_optimizer": {"name": "sgd", "learning_rate": 0.05},
            "shards": shards,
        }
        return TrainingTask.model_validate(body)


# Hard et al. and LEAF train next characters so; one layer of 256 here.
LSTM = _Characters(
    "LSTM 256",
    12,
    (STEPS,),
    (
        {"type": "Embedding", "input_dim": VOCABULARY, "output_dim": 8},
        {"type": "LSTM", "units": 256},
        {"type": "Dense", "units": VOCABULARY, "activation": "softmax"},
    ),
)
# Rounds of up to 100 people; peers need a minute for more.
MODELS: dict[str, Model] = {
    "LR": replace(models.LR, clients=100),
    "MLP": replace(models.MLP, clients=80),
    "CNN": replace(models.CNN, clients=16),
    "LSTM": LSTM,
}


@dataclass(frozen=True, slots=True)
class Workload:
    """One model with its clients, ready for every engine.

    Attributes:
        model: the architecture and its task.
        folder: what `export` wrote.
        store: the same clients as the house keeps them.
        clients, examples, parameters: how many.
    """

    model: Model
    folder: Path
    store: Path
    clients: int
    examples: int
    parameters: int


def prepare(model: Model, folder: Path, *, divided_by: int = 1) -> Workload:
    """Write the store, draw the first weights in a sandbox, and export both."""
    store = model.store(folder, divided_by=divided_by)
    task = task_of(model)
    with Sandbox(task, store) as sandbox:
        weights = sandbox.initial_weights()
    given = folder / f"{store.name}-given"
    opened = RaggedStore.open(store)
    export(task, opened, weights, given)
    parameters = sum(array.size for array in weights)
    return Workload(model, given, store, opened.clients, opened.manifest.examples, int(parameters))


def task_of(model: Model) -> TrainingTask:
    """What the house's engine is told; the peers are told the same."""
    return model.task().model_copy(update={"clip_norm": CLIP})


def export(task: TrainingTask, store: RaggedStore, weights: Sequence[Array], folder: Path) -> None:
    """Write two JSON files and, as `.npy`, features, labels, offsets and `weight-<k>`.

    Args:
        task: architecture, batch, learning rate, clip norm.
        store: the clients; all of them are exported.
        weights: the round's weights, in the order of the specification's layers.
        folder: where; must not exist yet.
    """
    folder.mkdir(parents=True)
    parts = list(
        cohort_clients.slices(
            store,
            np.arange(store.clients),
            columns=(task.features, task.label),
            cap=task.examples_per_client,
            seed=task.initial_seed,
            round_number=ROUND,
        )
    )
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    arrays = {
        "features": np.concatenate([part.features for part in parts]),
        "labels": np.concatenate([part.labels for part in parts]),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        **{f"weight-{place}": array for place, array in enumerate(weights)},
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    told = {
        "shape": list(task.model.input.shape),
        "dtype": task.model.input.dtype,
        "layers": [{"type": layer.type, **layer.keras_arguments()} for layer in task.model.layers],
        "weights": len(weights),
        "clients": len(sizes),
        "batch_size": task.batch_size,
        "learning_rate": task.client_optimizer.learning_rate,
        "clip_norm": task.clip_norm,
        "noise_multiplier": NOISE_MULTIPLIER,
    }
    # The same for the house's own processes, in the words of the sandbox.
    (folder / "engine.json").write_text(json.dumps(task.as_dict()) + "\n", encoding="utf-8")
    (folder / "task.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
