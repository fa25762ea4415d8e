"""Weights read from a stranger's file: NPZ or safetensors, numbers and nothing else.

Sizes are known from headers before a tensor is unpacked, nothing is ever unpickled, and no format
that can carry code (pickle, HDF5, `.keras`, SavedModel) is opened at all. It needs no gateway: a
file can be tried on the researcher's machine. This module must never unpack more than eight bytes
for each number that is allowed, nor give more numbers back.
Formats: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from typing import TYPE_CHECKING, Any, Final

from privacy_gateway import npz_files
from privacy_gateway.errors import FieldError, Refused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

MAX_TENSORS: Final = 1024
MAX_HEADER_BYTES: Final = 1 << 20
_NPY_HEADER_BYTES: Final = 4096
_MAX_RANK: Final = 8
_WIDEST_NUMBER: Final = 8
# Two bytes of its mark may begin a safetensors file too.
_ARCHIVE: Final = (b"PK\x03\x04", b"PK\x05\x06")
_DTYPES: Final = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_NUMBERED: Final = re.compile(r"^(.*?)([0-9]{1,6})$")
_FOREIGN: Final = (
    (b"\x89HDF", "HDF5"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)


def read(data: bytes, *, parameters: int) -> dict[str, Array]:
    """Tensors of a file by name, float32, in the order of the model's weights.

    Names end in a number that says the place (`weight_0000`, `arr_0`): formats do not keep an
    order of their own, and weights in the wrong place would be another model.

    Args:
        data: the file.
        parameters: most numbers of all tensors together.

    Raises:
        Refused: `unsupported` for another format; `too_large` for more numbers; `invalid_request`
            naming the tensor for broken sizes, names out of order, other types than floats, or
            numbers that are not finite.
        ImportError: NumPy or safetensors is not installed.
    """
    for magic, name in _FOREIGN:
        if data.startswith(magic):
            raise Refused("unsupported", f"weights come as NPZ or safetensors, never as {name}")
    form = _npz if data.startswith(_ARCHIVE) else _safetensors
    tensors = form(data, parameters)
    count = sum(array.size for array in tensors.values())
    if count > parameters:
        raise _too_large(f"hold {count} numbers", parameters)
    return {name: _finite(name, tensors[name]) for name in _ordered(list(tensors))}


def _npz(data: bytes, parameters: int) -> dict[str, Any]:
    """Members of an archive of `.npy` files."""
    limit = parameters * _WIDEST_NUMBER
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_count(len(members))
            names = [member.filename for member in members]
            if len(set(names)) != len(names):
                raise _broken("body", "the archive names a member twice")
            if any(not name.endswith(".npy") for name in names):
                raise Refused("unsupported", "the archive is no NPZ: it holds more than arrays")
            if any(member.compress_type not in npz_files.COMPRESSIONS for member in members):
                raise Refused("unsupported", "the archive is not stored or deflated")
            if sum(member.file_size for member in members) > limit + len(members) * 512:
                raise _too_large(f"unpack beyond {limit} bytes", parameters)
            return {
                member.filename.removesuffix(".npy"): _npy(
                    member.filename, archive.open(member).read(member.file_size)
                )
                for member in members
            }
    except (*npz_files.DAMAGED, RuntimeError) as error:  # the latter where it is encrypted
        raise _broken("body", "the archive is damaged") from error


def _npy(name: str, data: bytes) -> Any:
    """One array; its size is compared with its header before anything is made of it."""
    import numpy as np

    stream = io.BytesIO(data)
    try:
        shape, fortran, dtype = npz_files.header(stream, most_bytes=_NPY_HEADER_BYTES)
    except npz_files.HeaderRefused as refused:
        raise _broken(name, str(refused)) from refused
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise _broken(name, f"holds {str(dtype)[:20]}, not floats")
    _check_shape(name, list(shape))
    body = data[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise _broken(name, "is not as long as its shape says")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _safetensors(data: bytes, parameters: int) -> dict[str, Any]:
    """What the format's own library reads, of a file whose sizes were seen before."""
    limit = parameters * _WIDEST_NUMBER
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= MAX_HEADER_BYTES or data[8:9] != b"{":
        raise Refused("unsupported", "the file is neither NPZ nor safetensors")
    if len(data) - 8 - length > limit:
        raise _too_large(f"have more than {limit} bytes", parameters)
    import numpy as np
    from safetensors import SafetensorError, deserialize

    try:
        json.loads(data[8 : 8 + length], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _broken("body", "the header is not JSON, or names a member twice") from error
    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise _broken("body", f"is no safetensors file: {str(error)[:120]}") from error
    _check_count(len(entries))
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise _broken(name, f"holds {entry['dtype']}, not F16, F32 or F64")
        shape = _check_shape(name, entry["shape"])
        tensors[name] = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(shape)
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The library takes the last of two entries of one name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_TENSORS:
        raise _broken("body", f"holds {count} tensors; between 1 and {MAX_TENSORS} are read")


def _check_shape(name: str, shape: Any) -> list[int]:
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_RANK
        or any(type(side) is not int or side < 1 for side in shape)
    ):
        raise _broken(name, "has no shape of sides of at least 1")
    return shape


def _ordered(names: list[str]) -> list[str]:
    """By the number at the end; one prefix, and no number left out."""
    found = [_NUMBERED.match(name) for name in names]
    parts = [(match[1], int(match[2])) for match in found if match is not None]
    ordered = [name for _, name in sorted(zip(parts, names, strict=False))]
    if (
        len(parts) != len(names)
        or len({prefix for prefix, _ in parts}) != 1
        or sorted(number for _, number in parts) != list(range(len(names)))
    ):
        message = "tensors are named by their place: weight_0000, weight_0001, …"
        raise _broken(str(names[0])[:60], message)
    return ordered


def _finite(name: str, array: Any) -> Array:
    import numpy as np

    with np.errstate(over="ignore"):
        made: Array = np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
    if not np.isfinite(made).all():
        raise _broken(name, "holds numbers that are not finite")
    return made


def _too_large(what: str, parameters: int) -> Refused:
    """Of a file that cannot hold so few numbers; `limit` is their number."""
    message = f"{what}; at most {parameters} numbers are taken"
    at = FieldError("body", message, limit=parameters)
    return Refused("too_large", f"the weights {message}", errors=[at], limit=parameters)


def _broken(place: str, message: str) -> Refused:
    place = place.removesuffix(".npy")[:60]
    return Refused("invalid_request", f"{place}: {message}", errors=[FieldError(place, message)])
