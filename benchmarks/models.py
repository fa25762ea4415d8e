"""The models that are trained for the clock, and clients of sizes with a long tail.

Numbers in the stores are random; what is learnt does not matter here, that all engines are given
the same does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit import ragged
from worker.task import TrainingTask

SIDE, CLASSES = 28, 10
CHARACTERS, WORDS = 80, 90
FEWEST, MOST = 10, 300
CLIP_NORM = 0.5


@dataclass(frozen=True, slots=True)
class Model:
    """An architecture, and how many clients one round of it has in a benchmark."""

    name: str
    clients: int
    shape: tuple[int, ...]
    layers: tuple[dict[str, Any], ...]
    text: bool = False

    def task(self, *, shards: int = 1) -> TrainingTask:
        """What the sandbox is told."""
        dtype = "int32" if self.text else "float32"
        body = {
            "model": {
                "input": {"shape": list(self.shape), "dtype": dtype},
                "layers": list(self.layers),
            },
            "algorithm": "dp_fedavg",
            "clip_norm": CLIP_NORM,
            "batch_size": 20,
            "client_optimizer": {"name": "sgd", "learning_rate": 0.05},
            "shards": shards,
        }
        return TrainingTask.model_validate(body)

    def store(self, folder: Path, *, divided_by: int = 1) -> Path:
        """Write this many clients; returns the store's directory."""
        directory = folder / self.name.replace(" ", "-")
        sizes = client_sizes(max(4, self.clients // divided_by))
        ragged.write(directory, (texts if self.text else rows)(int(sizes.sum())), sizes)
        return directory


LR = Model(
    "LR 784-10",
    400,
    (SIDE * SIDE,),
    ({"type": "Dense", "units": CLASSES, "activation": "softmax"},),
)
MLP = Model(
    "MLP 784-200-200-10",
    160,
    (SIDE * SIDE,),
    (
        {"type": "Dense", "units": 200, "activation": "relu"},
        {"type": "Dense", "units": 200, "activation": "relu"},
        {"type": "Dense", "units": CLASSES, "activation": "softmax"},
    ),
)


def _convolution(filters: int) -> dict[str, Any]:
    return {
        "type": "Conv2D",
        "filters": filters,
        "kernel_size": [5, 5],
        "padding": "same",
        "activation": "relu",
    }


# McMahan et al. 2017, arXiv 1602.05629, section 3.
CNN = Model(
    "CNN 1.66 M",
    24,
    (SIDE, SIDE, 1),
    (
        _convolution(32),
        {"type": "MaxPooling2D", "pool_size": [2, 2]},
        _convolution(64),
        {"type": "MaxPooling2D", "pool_size": [2, 2]},
        {"type": "Flatten"},
        {"type": "Dense", "units": 512, "activation": "relu"},
        {"type": "Dense", "units": CLASSES, "activation": "softmax"},
    ),
)

# Next character of LEAF's Shakespeare, with one recurrent layer.
LSTM = Model(
    "LSTM 256",
    16,
    (CHARACTERS,),
    (
        {"type": "Embedding", "input_dim": WORDS, "output_dim": 8},
        {"type": "LSTM", "units": 256},
        {"type": "Dense", "units": WORDS, "activation": "softmax"},
    ),
    text=True,
)


def client_sizes(count: int) -> npt.NDArray[np.int64]:
    """Lognormal numbers of examples, 10 to 300 a client."""
    drawn = np.random.default_rng(1).lognormal(4.0, 0.8, count)
    return np.clip(drawn, FEWEST, MOST).astype(np.int64)


def rows(examples: int) -> dict[str, npt.NDArray[Any]]:
    """Random pictures with random labels."""
    generator = np.random.default_rng(2)
    features = generator.random((examples, SIDE * SIDE), np.float32) * np.float32(0.5)
    return {
        "features": features,
        "label": generator.integers(0, CLASSES, examples).astype(np.int32),
    }


def texts(examples: int) -> dict[str, npt.NDArray[Any]]:
    """Random characters, and a random one that follows."""
    generator = np.random.default_rng(2)
    return {
        "features": generator.integers(0, WORDS, (examples, CHARACTERS)).astype(np.int32),
        "label": generator.integers(0, WORDS, examples).astype(np.int32),
    }
