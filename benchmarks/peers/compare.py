"""Do the engines do the same work? Sums of un-noised updates of the same clients, side by side.

What leaves the house's engine differs from anybody's sum for two reasons that are told apart here:
float32 arithmetic in another order, and truncation to the grid C/2²⁰. A reference in double
precision says what is right.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.peers.engine import Engine, Vector
from benchmarks.report import Table

OURS, GRID, DOUBLE = "ours, off the grid", "ours, on the grid", "double precision"
TFF, TFF_DOUBLE, FLOWER, TORCH = "TFF", "TFF in float64", "Flower", "PyTorch loop"
NO, YES = "no", "yes"


def distance(sum_: Vector, beside: Vector) -> float:
    """|a − b| / |b|, Euclidean; ValueError for sums of different models."""
    if sum_.shape != beside.shape:
        raise ValueError(f"Expected {len(beside)} numbers, not {len(sum_)}")
    length = float(np.linalg.norm(beside))
    difference = float(np.linalg.norm(sum_ - beside))
    return difference / length if length else float(difference > 0)


def peers_sums(engines: Mapping[str, Engine]) -> dict[str, dict[str, Vector]]:
    """Sums of the peers, by clip and name."""
    tff, flower, torch = engines["tff"], engines["flower"], engines["torch"]
    return {
        NO: {
            TFF: tff.total("plain"),
            TFF_DOUBLE: tff.total("double"),
            FLOWER: flower.total("plain"),
            TORCH: torch.total("plain"),
        },
        YES: {
            TFF: tff.total("clipped"),
            FLOWER: flower.total("clipped"),
            TORCH: torch.total("clipped"),
        },
    }


def our_sums(exact: Engine) -> dict[str, dict[str, Vector]]:
    """Sums of the house and of the reference, by clip and name."""
    return {
        NO: {OURS: exact.total("plain"), DOUBLE: exact.total("double")},
        YES: {
            GRID: exact.total("grid"),
            OURS: exact.total("clipped"),
            DOUBLE: exact.total("double clipped"),
        },
    }


def add_rows(
    table: Table,
    model: str,
    ours: Mapping[str, Mapping[str, Vector]],
    peers: Mapping[str, Mapping[str, Vector]],
) -> None:
    """Ours beside every peer, everybody beside the reference, and the grid by itself."""
    for clip in (NO, YES):
        for name, total in peers[clip].items():
            if name != TFF_DOUBLE:
                table.add(model, clip, OURS, name, distance(ours[clip][OURS], total))
        for name, total in {**ours[clip], **peers[clip]}.items():
            if name not in (DOUBLE, GRID):
                table.add(model, clip, name, DOUBLE, distance(total, ours[clip][DOUBLE]))
    table.add(model, YES, GRID, OURS, distance(ours[YES][GRID], ours[YES][OURS]))
