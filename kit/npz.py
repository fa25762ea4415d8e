"""Arrays as an NPZ file without pickles: how models are stored.

Written are the bytes NumPy's `savez` gives for arrays in C order, at once: a job publishes its
model after every round, and `savez` goes through a file object for each array, writes every header
twice and copies each array three times. Layout: PKZIP appnote 6.3.10, 4.3, stored members, dated
1980-01-01; inside each the NPY format of NumPy. Reading is NumPy's own.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

# From here on the directory would need fields that are not written here; no database takes it.
TOO_LARGE = 1 << 31
MOST_ARRAYS = LONGEST_PATH = (1 << 16) - 1

_VERSION = 45  # every member says its sizes in 64 bits
_UNIX = 3 << 8
_DAY = 1 << 5 | 1  # 1980-01-01
_OWNERS = 0o600 << 16
_UNSAID = 0xFFFFFFFF
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_SIZES = struct.Struct("<HHQQ")
_CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_END = struct.Struct("<4sHHHHLLH")


def dump(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Arrays by name, uncompressed, each in C order: a function of names and values alone.

    Raises:
        TypeError: an array of something else than plain numbers, such as objects, which only a
            pickle could carry.
        ValueError: 2 GiB and more, more arrays than a directory counts, or a name that no member
            can have.
    """
    if len(arrays) > MOST_ARRAYS:
        raise ValueError(f"more than {MOST_ARRAYS} arrays do not fit into one file")
    members: list[bytes | memoryview] = []
    directory: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise TypeError(f"{name} holds {array.dtype}, which is no plain number")
        path = f"{name}.npy".encode()
        if "\0" in name or len(path) > LONGEST_PATH:
            raise ValueError("a name with a zero character, or of 64 KiB and more")
        head = _head(array.dtype.str, array.shape)
        size = len(head) + array.nbytes
        if offset + size >= TOO_LARGE:
            raise ValueError("arrays of 2 GiB and more do not fit into one file")
        # Its bytes, whatever its shape: a view, unless they lie in another order.
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        check = zlib.crc32(data, zlib.crc32(head))
        members += [_local(path, check, size), head, data]
        directory.append(_central(path, check, size, offset))
        offset += _LOCAL.size + len(path) + _SIZES.size + size
    entries = b"".join(directory)
    count = len(directory)
    end = _END.pack(b"PK\5\6", 0, 0, count, count, len(entries), offset, 0)
    return b"".join([*members, entries, end])


def load(data: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """Arrays by name, in their order; never unpickles.

    Raises:
        ValueError: an array would need a pickle.
        zipfile.BadZipFile: the bytes are no NPZ.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@lru_cache(maxsize=1024)
def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What an NPY file says before its data."""
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _local(path: bytes, check: int, size: int) -> bytes:
    """What stands before a member."""
    fixed = _LOCAL.pack(
        *(b"PK\3\4", _VERSION, _flags(path), 0, 0, _DAY),
        *(check, _UNSAID, _UNSAID, len(path), _SIZES.size),
    )
    return fixed + path + _SIZES.pack(1, 16, size, size)


def _central(path: bytes, check: int, size: int, offset: int) -> bytes:
    """A member's line of the directory."""
    fixed = _CENTRAL.pack(
        *(b"PK\1\2", _VERSION | _UNIX, _VERSION, _flags(path), 0, 0, _DAY),
        *(check, size, size, len(path), 0, 0, 0, 0, _OWNERS, offset),
    )
    return fixed + path


def _flags(path: bytes) -> int:
    """Whether the name is UTF-8 and not the old code page."""
    return 0 if path.isascii() else 1 << 11
