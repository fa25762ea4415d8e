"""Casts an owner's columns to what a store holds, block by block, and refuses what does not fit.

A value outside of what the manifest declares is refused by row number, counted from 1; it must
never be said, clipped or replaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.ingest_source import Array, Codes, Records
from kit import ragged
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

Type = np.dtype[np.generic]


def feature_shape(records: Records, manifest: Manifest) -> tuple[int, ...]:
    """Shape of one example's features: the file's, or the manifest's of as many numbers."""
    if len(records.features) == 1:
        found: tuple[int, ...] = records.features[0].shape[1:] or (1,)
    else:
        found = (sum(math.prod(values.shape[1:]) for values in records.features),)
    wanted = manifest.feature_shape
    if wanted is None:
        return found
    if math.prod(wanted) != math.prod(found):
        raise invalid(
            "manifest.feature_shape",
            f"has {math.prod(wanted)} numbers where a record has {math.prod(found)}",
            value=math.prod(wanted),
            limit=math.prod(found),
        )
    return wanted


def feature_type(records: Records) -> Type:
    """Narrowest stored type that keeps every feature; doubles become float32."""
    common = np.result_type(*(values.dtype for values in records.features)).newbyteorder("=")
    if common.kind == "b":
        return np.dtype(np.uint8)
    if common.name in ragged.DTYPES and common.kind in "ui":
        return common
    if common.kind in "ui":
        raise invalid("manifest.features", f"{common.name} is too wide; store int64 or narrower")
    return np.dtype(np.float32)


def features(records: Records, rows: Codes, dtype: Type, manifest: Manifest) -> Array:
    """One block of features, cast; NaN, infinities and overflow of float32 are refused."""
    parts = []
    # A reader may have put all named columns side by side into one array.
    together = len(records.features) < len(manifest.features)
    for index, values in enumerate(records.features):
        field = "manifest.features" if together else f"manifest.features[{index}]"
        raw = np.asarray(values[rows]).reshape(len(rows), -1)
        with np.errstate(over="ignore"):
            part = raw.astype(dtype)
        if dtype.kind == "f":
            _every(np.isfinite(part), rows, field, "is not a finite 32-bit number")
        _ranged(raw, rows, manifest.feature_range, field)
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def label_type(records: Records, manifest: Manifest) -> Type:
    """`int32` for classes and whole numbers, `float32` for quantities."""
    whole = manifest.classes is not None or records.label.dtype.kind in "bui"
    return np.dtype(np.int32) if whole else np.dtype(np.float32)


def labels(records: Records, rows: Codes, dtype: Type, manifest: Manifest) -> Array:
    """One block of labels, in range."""
    values = np.asarray(records.label[rows])
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = values.astype(dtype)
        _refuse_rows(~np.isfinite(cast), rows, "manifest.label", "is not a finite 32-bit number")
        _ranged(values[:, np.newaxis], rows, manifest.label_range, "manifest.label")
        return cast
    top = manifest.classes if manifest.classes is not None else np.iinfo(np.int32).max + 1
    bottom = 0 if manifest.classes is not None else np.iinfo(np.int32).min
    with np.errstate(invalid="ignore"):
        fits = (values >= bottom) & (values < top) & (values == np.floor(values))
    _refuse_rows(~fits, rows, "manifest.label", f"is not an integer from {bottom} to {top - 1}")
    _ranged(values[:, np.newaxis], rows, manifest.label_range, "manifest.label")
    return values.astype(dtype)


def _ranged(values: Array, rows: Codes, bounds: Sequence[float] | None, field: str) -> None:
    """Refuse rows of a block (rows, numbers) with a number outside of the declared range."""
    if bounds is None:
        return
    inside = (values >= bounds[0]) & (values <= bounds[1])
    _every(inside, rows, field, f"is outside of {bounds[0]:g} to {bounds[1]:g}")


def _every(holds: Any, rows: Codes, field: str, what: str) -> None:
    """Refuse unless all numbers of a block (rows, numbers) are right; names the first column."""
    if holds.all():
        return
    if field == "manifest.features":
        column = int(np.flatnonzero(~holds.all(axis=0))[0])
        field, holds = f"{field}[{column}]", holds[:, [column]]
    _refuse_rows(~holds.all(axis=1), rows, field, what)


def _refuse_rows(bad: Any, rows: Codes, field: str, what: str) -> None:
    """Refuse by row number, counted from 1; the value stays unsaid."""
    faults = rows[bad]
    if len(faults):
        raise invalid(
            field, f"{what} in row {int(faults.min()) + 1} ({len(faults)} such rows seen)"
        )
