"""Writes the same records as an owner would have them in each format."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = ("npz", "csv", "parquet", "tfrecord", "leaf")


@dataclass(frozen=True)
class Rows:
    """Records in the order of a file: who, float32 features (rows, width), whole labels."""

    who: Sequence[str]
    x: npt.NDArray[np.float32]
    y: Sequence[int]

    def manifest(self, form: str) -> dict[str, Any]:
        """What of a manifest depends on the format."""
        width = self.x.shape[1]
        features = [f"x{at}" for at in range(width)] if form == "csv" else ["x"]
        client = "users" if form == "leaf" else "who"
        return {"format": form, "features": features, "label": "y", "client": client}


def write(form: str, path: Path, rows: Rows) -> Path:
    """One file of the format at `path`."""
    _WRITERS[form](path, rows)
    return path


def _npz(path: Path, rows: Rows) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, x=rows.x, y=np.asarray(rows.y), who=np.asarray(rows.who))


def _csv(path: Path, rows: Rows) -> None:
    head = ",".join(["who", "y", *(f"x{at}" for at in range(rows.x.shape[1]))])
    lines = [
        ",".join([who, str(label), *(repr(float(value)) for value in row)])
        for who, label, row in zip(rows.who, rows.y, rows.x, strict=True)
    ]
    path.write_text("\n".join([head, *lines, ""]), encoding="utf-8")


def _parquet(path: Path, rows: Rows) -> None:
    table = pa.table(
        {
            "who": list(rows.who),
            "x": pa.array(rows.x.tolist(), pa.list_(pa.float32())),
            "y": list(rows.y),
        }
    )
    pq.write_table(table, path, row_group_size=7)


def _tfrecord(path: Path, rows: Rows) -> None:
    examples = (
        example({"who": [who.encode()], "x": row, "y": [label]})
        for who, label, row in zip(rows.who, rows.y, rows.x, strict=True)
    )
    path.write_bytes(b"".join(framed(examples)))


def _leaf(path: Path, rows: Rows) -> None:
    data: dict[str, dict[str, list[Any]]] = {}
    for who, label, row in zip(rows.who, rows.y, rows.x, strict=True):
        user = data.setdefault(who, {"x": [], "y": []})
        user["x"].append([float(value) for value in row])
        user["y"].append(label)
    path.write_text(json.dumps(leaf(data)), encoding="utf-8")


def leaf(data: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
    """A LEAF document of users' data."""
    counts = [len(user["y"]) for user in data.values()]
    return {"users": list(data), "num_samples": counts, "user_data": data}


def framed(records: Any) -> Iterator[bytes]:
    """TFRecord framing."""
    for record in records:
        length = struct.pack("<Q", len(record))
        yield length + _masked(length) + record + _masked(record)


def example(features: Mapping[str, Any]) -> bytes:
    """A serialised `tf.train.Example`; lists of bytes, float32 arrays, else whole numbers."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, np.ndarray):
            inner = _field(2, _field(1, values.astype("<f4").tobytes()))
        elif values and isinstance(values[0], bytes):
            inner = _field(1, b"".join(_field(1, value) for value in values))
        else:
            inner = _field(3, _field(1, b"".join(varint(value) for value in values)))
        entries += _field(1, _field(1, name.encode()) + _field(2, inner))
    return _field(1, entries)


def varint(value: int) -> bytes:
    """Base 128, two's complement of 64 bits."""
    value &= (1 << 64) - 1
    result = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        result.append(low | (0x80 if value else 0))
        if not value:
            return bytes(result)


def packed(data: bytes) -> bytes:
    """GZIP without a time."""
    return gzip.compress(data, mtime=0)


def _field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


_WRITERS = {"npz": _npz, "csv": _csv, "parquet": _parquet, "tfrecord": _tfrecord, "leaf": _leaf}
