"""Decodes a `tf.train.Example`, without TensorFlow and without protocol buffer libraries.

The message is a map of names to lists of bytes, floats or whole numbers. Only that map is read; any
byte that does not fit the wire format is an error, never skipped over and never copied twice.
Format: tensorflow/core/example/{example,feature}.proto; protobuf wire encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Value = list[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]

_VARINT: Final = 0
_WIDE: Final = 1
_BYTES: Final = 2
_NARROW: Final = 5
_KEEP: Final = 0x7F


class Malformed(ValueError):
    """Bytes that are no Example; holds none of them."""


def decode(message: bytes) -> dict[str, Value]:
    """The features of one Example by name; a name that comes twice has its last value.

    Raises:
        Malformed: it is none.
    """
    features: dict[str, Value] = {}
    for number, value in _fields(memoryview(message)):
        if number == 1:
            for inner, entry in _fields(_view(value)):
                if inner == 1:
                    name, feature = _entry(_view(entry))
                    features[name] = feature
    return features


def _entry(message: memoryview) -> tuple[str, Value]:
    """One entry of the map: name and feature."""
    name, feature = "", memoryview(b"")
    for number, value in _fields(message):
        if number == 1:
            name = _text(_view(value))
        elif number == 2:
            feature = _view(value)
    return name, _feature(feature)


def _feature(message: memoryview) -> Value:
    """A list of one of three kinds; none of them is an empty list."""
    found: Value = []
    for number, value in _fields(message):
        if number == 1:
            found = [bytes(_view(item)) for at, item in _fields(_view(value)) if at == 1]
        elif number == 2:
            found = _floats(_view(value))
        elif number == 3:
            found = _integers(_view(value))
    return found


def _floats(message: memoryview) -> npt.NDArray[np.float32]:
    """Packed or single 32-bit floats, little-endian."""
    parts = []
    for number, value in _fields(message):
        if number != 1:
            continue
        data = _view(value)
        if len(data) % 4:
            raise Malformed("a list of floats of broken length")
        parts.append(np.frombuffer(data, "<f4"))
    return np.concatenate(parts).astype(np.float32) if parts else np.empty(0, np.float32)


def _integers(message: memoryview) -> npt.NDArray[np.int64]:
    """Packed or single varints, two's complement."""
    parts = []
    for number, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            parts.append(np.asarray([value], np.uint64))
        else:
            parts.append(_varints(value))
    if not parts:
        return np.empty(0, np.int64)
    return np.concatenate(parts).view(np.int64)


def _varints(data: memoryview) -> npt.NDArray[np.uint64]:
    """A run of varints at once: seven bits a byte, the lowest first."""
    raw = np.frombuffer(data, np.uint8)
    if not len(raw):
        return np.empty(0, np.uint64)
    ends = np.flatnonzero(raw < 128)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise Malformed("a number that does not end")
    if len(ends) == len(raw):
        return raw.astype(np.uint64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if int(lengths.max()) > 10:
        raise Malformed("a number of more than 64 bits")
    place = np.arange(len(raw)) - np.repeat(starts, lengths)
    bits = (raw & _KEEP).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts)


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Field numbers and values: an int for a varint, a view for everything else."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_WIDE, _NARROW):
            size = 8 if kind == _WIDE else 4
        else:
            raise Malformed("an unknown kind of field")
        if size > end - at:
            raise Malformed("a field that is longer than its message")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """One varint and the position after it."""
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        result |= (byte & _KEEP) << shift
        if byte < 128:
            return result & 0xFFFF_FFFF_FFFF_FFFF, at
    raise Malformed("a number that does not end")


def _view(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise Malformed("a field of another kind than the format's")
    return value


def _text(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("a name that is not UTF-8") from error
