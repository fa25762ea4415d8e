"""Robust aggregators, for the attack table alone: none of them can be had in a job.

Each takes one row a client and gives one update. A median, a trimmed mean or Krum's choice can
change by any amount when one person comes or goes, so no noise of a known size hides her, and the
rules look at updates one by one, which never leave a sandbox. What jobs have is the sum of updates
clipped to C, whose sensitivity is C.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from worker.task import GRID

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]
Aggregator = Callable[[Matrix], Vector]

# What a defender believes about the share of attackers; it is right in the table below 30 %.
SUSPECTED = 0.3


def average(updates: Matrix) -> Vector:
    """The mean, without any defence."""
    return np.asarray(updates.mean(axis=0))


def coordinate_median(updates: Matrix) -> Vector:
    """The median of every coordinate by itself (Yin et al. 2018, arXiv 1803.01498)."""
    return np.asarray(np.median(updates, axis=0))


def trimmed_mean(updates: Matrix, share: float = SUSPECTED) -> Vector:
    """The mean of every coordinate without its `share` lowest and highest (same paper)."""
    cut = min(int(share * len(updates)), (len(updates) - 1) // 2)
    kept = np.sort(updates, axis=0)[cut : len(updates) - cut]
    return np.asarray(kept.mean(axis=0))


def krum(updates: Matrix, share: float = SUSPECTED) -> Vector:
    """The update nearest to its n − f − 2 neighbours (Blanchard et al. 2017, arXiv 1703.02757)."""
    squares = np.einsum("ij,ij->i", updates, updates)
    distances = squares[:, None] + squares[None, :] - 2.0 * updates @ updates.T
    np.fill_diagonal(distances, np.inf)
    near = max(1, len(updates) - math.ceil(share * len(updates)) - 2)
    scores = np.sort(distances, axis=1)[:, :near].sum(axis=1)
    return np.asarray(updates[int(scores.argmin())])


def clipped_to_grid(updates: Matrix, clip_norm: float) -> npt.NDArray[np.int64]:
    """Sum of updates under the engine's clip, for vectors that no client's data could give.

    Norm at most C, truncated to whole steps of C/2²⁰, zero where a number is not finite: what
    `worker.training.federated` does to any update, whoever made it.
    """
    finite = np.asarray(np.isfinite(updates).all(axis=1))
    safe = np.where(finite[:, None], updates, 0.0)
    # Squares of large numbers must not overflow: scale by the largest one first.
    largest = np.maximum(np.abs(safe).max(axis=1, initial=0.0), 1e-30)[:, None]
    lengths = np.asarray(np.linalg.norm(safe / largest, axis=1))[:, None]
    shrink = np.minimum(1.0, clip_norm / largest / np.maximum(lengths, 1e-30))
    steps = safe * shrink * (GRID * (1.0 - 2.0**-30) / clip_norm)
    return np.asarray(np.trunc(steps).astype(np.int64).sum(axis=0))
