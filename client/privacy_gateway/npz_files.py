"""What all readers of strangers' NPZ files keep to: compressions, damages and headers of arrays.

Nothing here unpacks an array. NumPy is an extra of the client and is imported when it is needed.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

    Header = tuple[tuple[int, ...], bool, np.dtype[np.generic]]

# Others unpack a whole block before they are cut to the size that a member tells.
COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What the library raises for a broken archive; it seeks to wherever the directory says, and gives
# this name to features that it lacks.
DAMAGED: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError,
    NotImplementedError,
)  # fmt: skip


class HeaderRefused(Exception):
    """An array's header that cannot be read; the text goes behind the array's name."""


def header(stream: IO[bytes], *, most_bytes: int) -> Header:
    """Shape, whether in Fortran's order, and type, by NumPy's own parser of literals.

    Args:
        stream: at the begin of an array; afterwards at its first number.
        most_bytes: longest header.

    Raises:
        HeaderRefused: it is none, of an unknown version, or longer.
    """
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        read = readers.get(npy.read_magic(stream))
        if read is None:
            raise HeaderRefused("is of an unknown version of the NPY format")
        shape, fortran, dtype = read(stream, max_header_size=most_bytes)
    except (
        ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError,
    ) as error:  # fmt: skip
        raise HeaderRefused("has no header of plain numbers") from error
    return shape, fortran, dtype
