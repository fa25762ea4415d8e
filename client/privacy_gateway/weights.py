"""Released weights as arrays: NPZ, never pickles, never larger than said.

NumPy is an extra of the client and is imported only when arrays are asked for.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from privacy_gateway.errors import Refused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

DOWNLOAD_BYTES = 2 << 30


def collect(blocks: Iterable[bytes], *, limit: int = DOWNLOAD_BYTES) -> bytes:
    """Join a download's blocks; `too_large` beyond `limit` bytes."""
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) > limit:
            raise Refused("too_large", f"the result has more than {limit} bytes", limit=limit)
    return bytes(data)


def load(data: bytes, *, limit: int = DOWNLOAD_BYTES) -> dict[str, Array]:
    """Arrays of an NPZ by name, in the order of the file (the order of the model's weights).

    Raises:
        Refused: `too_large` when the archive would unpack beyond `limit`; `unsupported` when it is
            no NPZ of plain numbers.
        ImportError: NumPy is not installed.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError("arrays need NumPy: pip install 'privacy-gateway[weights]'") from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > limit:
            raise Refused("too_large", f"the result unpacks to {unpacked} bytes", limit=limit)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise Refused("unsupported", "the result is not an NPZ of plain numbers") from error


def fill(model: Any, arrays: dict[str, Array]) -> Any:
    """Put released weights into the Keras model they were trained for, and return it."""
    model.set_weights(list(arrays.values()))
    return model


def dump(source: Any) -> bytes:
    """A Keras model's weights, or arrays in their order, as the NPZ that `POST /v1/weights` takes.

    Raises:
        ImportError: NumPy is not installed.
    """
    import numpy as np

    arrays = source.get_weights() if hasattr(source, "get_weights") else list(source)
    buffer = io.BytesIO()
    np.savez(buffer, *[np.asarray(array, np.float32) for array in arrays])
    return buffer.getvalue()
