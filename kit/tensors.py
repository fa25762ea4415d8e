"""Arrays as files that hold no code: safetensors, as models are stored, or NPZ to hand out.

Both are written by their own libraries, and a file is a function of names and values alone. Arrays
are told apart by name, never by their place in a file: safetensors orders them by type and name.
Formats: https://github.com/huggingface/safetensors#format and
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from safetensors import numpy as safetensors

Array = npt.NDArray[np.generic]
Form = Literal["npz", "safetensors"]

_ZIP: Final = b"PK"


def dump(arrays: Mapping[str, Array]) -> bytes:
    """A safetensors file of arrays by name, whatever their order in memory.

    Raises:
        safetensors.SafetensorError: an array of something else than plain numbers.
    """
    # The library copies memory as it lies there, also where it is not in C order.
    return safetensors.save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def load(data: bytes) -> dict[str, Array]:
    """Arrays in order of their names, of a file in either form; never unpickles.

    Raises:
        ValueError: an NPZ array would need a pickle.
        zipfile.BadZipFile, safetensors.SafetensorError: the bytes are no such file.
    """
    if form_of(data) == "safetensors":
        return dict(sorted(safetensors.load(data).items()))
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in sorted(archive.files)}


def in_form(data: bytes, form: Form) -> bytes:
    """The same arrays in a form; the very bytes where they are in it already."""
    if form_of(data) == form:
        return data
    arrays = load(data)
    return _npz(arrays) if form == "npz" else dump(arrays)


def form_of(data: bytes) -> Form:
    """Which of the two a file is; models that were stored by earlier versions are NPZ."""
    return "npz" if data.startswith(_ZIP) else "safetensors"


def digest(data: bytes) -> str:
    """SHA-256, lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _npz(arrays: Mapping[str, Array]) -> bytes:
    """Uncompressed; its members are dated 1980."""
    buffer = io.BytesIO()
    # `savez` has two parameters of its own, whose names no array can have.
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
