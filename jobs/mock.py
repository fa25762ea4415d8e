"""Made-up records of a data set's shape, for a researcher to try code on before asking for data.

They are drawn from what the catalogue already says and what the owner declared, by a generator
seeded with the public id. This module must never open a store, nor see a number computed from
records: `Schema` holds all it knows.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from jobs.ingest_source import Array
from jobs.tables_datasets import Dataset
from privacy_gateway.errors import FieldError, Refused

MOST_BYTES: Final = 16 << 20
_MOST_SCORES: Final = 1 << 20
_WHOLE: Final = (0.0, 127.0)
_REAL: Final = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Schema:
    """All that mock data is made of.

    `feature_range` and `label_range` are inclusive, in the units of the store; without a declared
    one, whole numbers go from 0 to 127 (`uint8` to 255) and others from 0 to 1. `scale` is what a
    reader multiplies features with.
    """

    seed: str
    feature_dtype: str
    feature_shape: tuple[int, ...]
    feature_range: tuple[float, float]
    scale: float
    label_dtype: str
    label_range: tuple[float, float]
    classes: int | None


def schema(row: Dataset) -> Schema:
    """What is public of a version; nothing of it depends on a record's values."""
    declared = row.manifest
    return Schema(
        seed=row.id,
        feature_dtype=row.feature_dtype,
        feature_shape=tuple(row.feature_shape),
        feature_range=_feature_range(declared, row.feature_dtype),
        scale=row.feature_scale,
        label_dtype=row.label_dtype,
        label_range=_bounds(declared, "label_range", row.label_dtype),
        classes=row.classes,
    )


def mock(described: Schema, *, clients: int, examples: int) -> dict[str, Array]:
    """Mock records, the same for the same arguments.

    Args:
        described: of the data set.
        clients: made-up people, at least 1; each has at least one record.
        examples: most records of one of them, at least 1.

    Returns:
        `features` (rows, …) in the store's type, `label` (rows,), `client` (rows,) int64 from 0,
        rising, and `scale` (), float64.

    Raises:
        Refused: `too_large` naming `examples` beyond 16 MiB of features.
    """
    seed = hashlib.sha256(f"mock/{described.seed}/{clients}/{examples}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    sizes = rng.integers(1, examples, clients, endpoint=True)
    rows = int(sizes.sum())
    dtype = np.dtype(described.feature_dtype)
    size = rows * math.prod(described.feature_shape) * max(8, dtype.itemsize)
    if size > MOST_BYTES:
        raise Refused(
            "too_large",
            "examples: so many mock records are too large; ask for fewer clients or examples",
            errors=[FieldError("examples", "mock records are too large", size, MOST_BYTES)],
        )
    features = _drawn(rng, (rows, *described.feature_shape), dtype, described.feature_range)
    return {
        "features": features,
        "label": _labels(rng, features, described),
        "client": np.repeat(np.arange(clients, dtype=np.int64), sizes),
        "scale": np.asarray(described.scale, np.float64),
    }


def archive(arrays: dict[str, Array]) -> bytes:
    """Arrays as a compressed NPZ without pickles."""
    with io.BytesIO() as target:
        np.savez_compressed(target, allow_pickle=False, **arrays)
        return target.getvalue()


def _feature_range(declared: dict[str, Any], dtype: str) -> tuple[float, float]:
    """Declared bounds, or the numbers of the characters of the vocabulary."""
    if declared.get("vocabulary") and declared.get("feature_range") is None:
        return (0.0, float(len(declared["vocabulary"]) - 1))
    return _bounds(declared, "feature_range", dtype)


def _bounds(declared: dict[str, Any], name: str, dtype: str) -> tuple[float, float]:
    """Declared bounds, cut to what the type can hold, or the ordinary ones."""
    given, kind = declared.get(name), np.dtype(dtype)
    if kind.kind == "f":
        return (float(given[0]), float(given[1])) if given else _REAL
    if given is None:
        return (0.0, 255.0) if kind == np.uint8 else _WHOLE
    # Bounds lie within ±1e12, so wide types need no cut that a float could not hold.
    limits = np.iinfo(kind)
    low = min(max(math.ceil(given[0]), limits.min), limits.max)
    return float(low), float(max(min(math.floor(given[1]), limits.max), low))


def _drawn(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    bounds: tuple[float, float],
) -> Array:
    """Uniform numbers between two bounds."""
    if dtype.kind == "f":
        values = rng.uniform(*bounds, shape).astype(dtype)
        # Rounding to single precision may step over a bound.
        within: Array = np.clip(values, np.asarray(bounds[0], dtype), np.asarray(bounds[1], dtype))
        return within
    whole: Array = rng.integers(int(bounds[0]), int(bounds[1]), shape, endpoint=True)
    return whole.astype(dtype)


def _labels(rng: np.random.Generator, features: Array, described: Schema) -> Array:
    """Labels a linear model can learn, so that a trial run shows something."""
    dtype = np.dtype(described.label_dtype)
    if described.classes is None:
        return _drawn(rng, (len(features),), dtype, described.label_range)
    flat = features.reshape(len(features), -1)[:, :64].astype(np.float64)
    low, high = described.feature_range
    centred = (flat - low) / max(high - low, 1e-300) - 0.5
    # At most 1024 of the classes occur: a teacher of a million columns is no better.
    teacher = rng.standard_normal((centred.shape[1], min(described.classes, 1024)))
    # A score for each record and class at once would be gigabytes where classes are many.
    told: Array = np.empty(len(centred), dtype)
    step = max(1, _MOST_SCORES // teacher.shape[1])
    for first in range(0, len(centred), step):
        block = slice(first, first + step)
        told[block] = np.argmax(centred[block] @ teacher, axis=1)
    return told
