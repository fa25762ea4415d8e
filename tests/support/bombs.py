"""Architectures that would cost a framework minutes or gigabytes, and a door microseconds."""

from __future__ import annotations

from typing import Any

FEATURES = 16


def _dense(units: int) -> dict[str, Any]:
    return {"type": "Dense", "units": units}


BOMBS: dict[str, list[dict[str, Any]]] = {
    "wide": [_dense(1 << 28), _dense(3)],
    "deep": [_dense(8)] * 1000,
    "long": [
        {"type": "Reshape", "target_shape": [FEATURES, 1]},
        {"type": "Conv1D", "filters": 1 << 20, "kernel_size": 3, "padding": "same"},
        {"type": "Flatten"},
        _dense(1 << 16),
    ],
    "many": [{"type": "Embedding", "input_dim": 1 << 30, "output_dim": 1 << 12}],
    "doubling": [
        _dense(1 << 12),
        *[{"type": "Concatenate", "inputs": [place, place]} for place in range(60)],
    ],
}


def architecture(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """As it stands in a request."""
    return {"input": {"shape": [FEATURES]}, "layers": layers}
