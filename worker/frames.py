"""The only language between the trusted coordinator and the sandbox: framed JSON and raw arrays.

A frame is `PGF1`, two little-endian u32 (header bytes, array bytes in the u64 that follows), a JSON
header, then the arrays' bytes. No pickle, no object arrays. The reader fixes in advance how many
bytes it accepts, so a compromised peer can neither exhaust memory nor smuggle an object.
"""

import json
import math
import os
import select
import struct
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

MAGIC = b"PGF1"
HEADER_BYTES = 1 << 22
DTYPES = ("float32", "int64")

_PREFIX = struct.Struct("<4sIQ")
_BLOCK = 1 << 20
_MAX_ARRAYS = 1024

Array: TypeAlias = npt.NDArray[Any]


class FrameBroken(Exception):
    """The peer does not keep to the protocol."""


class PeerGone(Exception):
    """The peer closed its end."""


class DeadlinePassed(Exception):
    """The peer took longer than it was given."""


class Channel:
    """One end of a pair of pipes.

    Descriptors are owned by the caller. With a deadline both directions are non-blocking, so a peer
    that neither reads nor writes cannot hold this side.
    """

    def __init__(self, read_fd: int, write_fd: int, *, max_bytes: int) -> None:
        """Talk over two pipe ends and accept frames of at most `max_bytes` array bytes."""
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._max_bytes = max_bytes

    def send(
        self, header: dict[str, Any], arrays: Sequence[Array] = (), *, deadline: float | None = None
    ) -> None:
        """Write one frame.

        Args:
            header: JSON object; `arrays` in it is taken.
            arrays: float32 or int64 arrays.
            deadline: `time.monotonic()` at which DeadlinePassed is raised; None waits for ever.
        """
        packed = [np.ascontiguousarray(array) for array in arrays]
        described = [{"dtype": str(a.dtype), "shape": list(a.shape)} for a in packed]
        head = json.dumps({**header, "arrays": described}, allow_nan=False).encode()
        size = sum(array.nbytes for array in packed)
        self._write(_PREFIX.pack(MAGIC, len(head), size) + head, deadline)
        for array in packed:
            if array.nbytes:
                self._write(array.reshape(-1).data.cast("B"), deadline)

    def receive(self, *, deadline: float | None = None) -> tuple[dict[str, Any], list[Array]]:
        """Read one frame; FrameBroken when it is not one, PeerGone at the end of the stream."""
        magic, head_size, size = _PREFIX.unpack(self._read(_PREFIX.size, deadline))
        if magic != MAGIC or head_size > HEADER_BYTES or size > self._max_bytes:
            raise FrameBroken("a frame of unknown form or size")
        try:
            header = json.loads(self._read(head_size, deadline))
            shapes = [(a["dtype"], tuple(a["shape"])) for a in header.pop("arrays")]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise FrameBroken("a header that cannot be read") from error
        if _sizes_total(shapes) != size:
            raise FrameBroken("arrays of another size than announced")
        return header, [self._read_array(dtype, shape, deadline) for dtype, shape in shapes]

    def _read_array(self, dtype: str, shape: tuple[int, ...], deadline: float | None) -> Array:
        array = np.empty(shape, dtype)
        if array.nbytes:
            self._read_into(array.reshape(-1).data.cast("B"), deadline)
        return array

    def _read(self, count: int, deadline: float | None) -> bytes:
        buffer = bytearray(count)
        self._read_into(memoryview(buffer), deadline)
        return bytes(buffer)

    def _read_into(self, target: memoryview, deadline: float | None) -> None:
        position = 0
        while position < len(target):
            _wait(self._read_fd, select.POLLIN, deadline)
            got = os.readv(self._read_fd, [target[position : position + _BLOCK]])
            if got == 0:
                raise PeerGone
            position += got

    def _write(self, data: bytes | memoryview, deadline: float | None) -> None:
        view, position = memoryview(data), 0
        while position < len(view):
            _wait(self._write_fd, select.POLLOUT, deadline)
            try:
                position += os.write(self._write_fd, view[position : position + _BLOCK])
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise PeerGone from error


def _wait(descriptor: int, events: int, deadline: float | None) -> None:
    """Wait until the pipe is ready, or raise at the deadline."""
    if deadline is None:
        return
    poll = select.poll()
    poll.register(descriptor, events)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poll.poll(math.ceil(remaining * 1000)):
        raise DeadlinePassed


def _sizes_total(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> int:
    """Bytes the described arrays need; FrameBroken for a description that is not one."""
    if len(shapes) > _MAX_ARRAYS:
        raise FrameBroken("too many arrays")
    total = 0
    for dtype, shape in shapes:
        sides_fit = len(shape) <= 8 and all(type(side) is int and side >= 0 for side in shape)
        if dtype not in DTYPES or not sides_fit:
            raise FrameBroken("an array of unknown form")
        total += math.prod(shape) * np.dtype(dtype).itemsize
    return total
