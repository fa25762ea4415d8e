"""Arrays as files that hold no code: safetensors, as models are stored, or NPZ to hand out.

Both are written by their own libraries, and a file is a function of names, values and the library's
version alone. Arrays are told apart by name, never by their place in a file: safetensors orders
them by type and name.
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

# A file's first bytes, by which its form is known.
MARK_BYTES: Final = 9


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
        ValueError: an NPZ array would need a pickle, or the bytes are neither.
        zipfile.BadZipFile, safetensors.SafetensorError: the bytes are a damaged file.
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
    """Which of the two a file is; models that were stored by earlier versions are NPZ.

    A safetensors file begins with a length, which may read "PK" too, and then a JSON object. There
    an archive says its method of compression, of which none is called so.
    """
    return "safetensors" if data[MARK_BYTES - 1 : MARK_BYTES] == b"{" else "npz"


def digest(data: bytes) -> str:
    """SHA-256, lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _npz(arrays: Mapping[str, Array]) -> bytes:
    """Uncompressed; its members are dated 1980."""
    buffer = io.BytesIO()
    # `savez` has two parameters of its own, whose names no array can have.
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
