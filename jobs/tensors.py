"""Arrays for handing out: NPZ as it is stored (`kit.npz`), or safetensors made of it.

A file that goes out must be readable without running code. The order of the arrays is the order of
the model's weights and is kept by both formats. The stored bytes are a function of names and values
alone, so their SHA-256 names the model.
Format of safetensors: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

_NAMES = {
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "bool": "BOOL",
}


def to_safetensors(arrays: Mapping[str, Array]) -> bytes:
    """The same arrays in the safetensors layout: length, JSON header, raw little-endian data."""
    header: dict[str, object] = {}
    parts: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def digest(data: bytes) -> str:
    """SHA-256, lower-case hex."""
    return hashlib.sha256(data).hexdigest()
