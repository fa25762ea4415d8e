"""Reads TFRecord files of `tf.train.Example` as a stream, without TensorFlow.

Both checksums of every record are verified before it is decoded. A file compressed with GZIP is
unpacked on the way, within the limit on unpacked bytes; no length is believed before the bytes are
there. A list of one bytes value is text under a vocabulary, and raw `uint8` numbers without.
Format: tensorflow.org/tutorials/load_data/tfrecord (CRC-32C, Castagnoli, masked).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

import google_crc32c
import numpy as np

from jobs import ingest_text
from jobs.ingest_example import Malformed, Value, decode
from jobs.ingest_source import (
    BLOCK_BYTES,
    SOURCE,
    Array,
    Limits,
    Source,
    check,
    unreadable,
    within,
)
from jobs.ingest_spool import Spool
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

_GZIP: Final = b"\x1f\x8b"
_MASK: Final = 0xA282EAD8
_BLOCK_ROWS: Final = 4096


@dataclass(slots=True)
class _Block:
    """Rows not yet in the spool."""

    features: list[list[Array]]
    labels: list[Array] = field(default_factory=list)
    clients: list[int] = field(default_factory=list)
    tests: list[bool] = field(default_factory=list)
    bytes: int = 0


def read(path: Path, manifest: Manifest, scratch: Path, limits: Limits) -> Source:
    """The features a manifest names, spooled to scratch space.

    Args:
        path: a TFRecord file of Examples, plain or GZIP.
        manifest: which features are features, label, client and test.
        scratch: an empty directory that outlives the result.
        limits: ceilings.

    Raises:
        Refused: `invalid_request` or `too_large`, naming the member of the manifest at fault, or
            `source` when the file itself is.
    """
    check(
        manifest.test_features is None,
        "manifest.test_features",
        "names an array; a TFRecord file marks its test records in the feature `test`",
    )
    with _opened(path) as stream, Spool(scratch, limits, len(manifest.features)) as spool:
        block = _empty(manifest)
        for number, record in enumerate(records(stream, limits), start=1):
            within(number, limits.rows, "the file has too many rows")
            _take(record, number, manifest, spool, block)
            if len(block.labels) == _BLOCK_ROWS or block.bytes > BLOCK_BYTES:
                _flush(block, spool)
                block = _empty(manifest)
        _flush(block, spool)
        return spool.source()


def records(stream: BinaryIO, limits: Limits) -> Iterator[bytes]:
    """The records of a stream, checksums verified.

    Raises:
        Refused: a broken or cut record by its number; `too_large`.
    """
    number = unpacked = 0
    while head := stream.read(12):
        number += 1
        check(len(head) == 12, SOURCE, f"the file ends inside record {number}")
        length, checksum = struct.unpack("<QI", head)
        if checksum != masked(head[:8]):
            unreadable(f"the file is not TFRecord: wrong checksum of the length of record {number}")
        within(length, limits.record_bytes, f"record {number} is too long")
        unpacked += length
        within(unpacked, limits.unpacked_bytes, "the file unpacks to too many bytes")
        body = stream.read(length + 4)
        check(len(body) == length + 4, SOURCE, f"the file ends inside record {number}")
        record = body[:length]
        if struct.unpack("<I", body[length:])[0] != masked(record):
            unreadable(f"wrong checksum of record {number}")
        yield record


def masked(data: bytes) -> int:
    """The masked CRC-32C that TFRecord stores."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFF_FFFF


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The stream of records, unpacked if need be."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        # A record of 0x8b1f bytes begins alike; its checksum tells.
        if packed:
            file.seek(0)
            head = file.read(12)
            packed = len(head) < 12 or head[8:] != struct.pack("<I", masked(head[:8]))
        file.seek(0)
        try:
            yield cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise invalid(SOURCE, "the compressed file is broken") from error


def _empty(manifest: Manifest) -> _Block:
    return _Block([[] for _ in manifest.features])


def _take(record: bytes, number: int, manifest: Manifest, spool: Spool, block: _Block) -> None:
    """One Example into the block."""
    try:
        example = decode(record)
    except Malformed as error:
        raise invalid(SOURCE, f"record {number} is not a tf.train.Example") from error
    for at, name in enumerate(manifest.features):
        place = f"manifest.features[{at}]"
        row = _numbers(_named(example, name, place, number), manifest, place, number)
        within(row.size, spool.limits.row_elements, "a record has too many numbers", place)
        block.features[at].append(row)
        block.bytes += row.nbytes
    label = _numbers(
        _named(example, manifest.label, "manifest.label", number),
        manifest,
        "manifest.label",
        number,
    )
    check(label.shape == (1,), "manifest.label", f"is not one value in row {number}")
    block.labels.append(label[0])
    client = _named(example, manifest.client, "manifest.client", number)
    block.clients.append(spool.code(_client(client, number), number))
    if manifest.test is not None:
        block.tests.append(_mark(_named(example, manifest.test, "manifest.test", number), number))


def _named(example: dict[str, Value], name: str, place: str, number: int) -> Value:
    """A feature that must be there."""
    value = example.get(name)
    if value is None or not len(value):
        raise invalid(place, f"row {number} has no value of {name!r}", value=name)
    return value


def _numbers(value: Value, manifest: Manifest, place: str, number: int) -> Array:
    """A list as numbers; bytes are text or raw."""
    if not isinstance(value, list):
        return value
    check(len(value) == 1, place, f"has several bytes values in row {number}")
    if manifest.vocabulary is None:
        return np.frombuffer(value[0], np.uint8)
    text = _text(value[0], place, number)
    coded: Array = ingest_text.encode([text], manifest, place, number)[0]
    return coded


def _client(value: Value, number: int) -> int | str:
    """One id, a whole number or UTF-8 text."""
    check(len(value) == 1, "manifest.client", f"is not one value in row {number}")
    if isinstance(value, list):
        return _text(value[0], "manifest.client", number)
    check(
        value.dtype.kind == "i",
        "manifest.client",
        f"is neither a whole number nor text in row {number}",
    )
    return int(value[0])


def _mark(value: Value, number: int) -> bool:
    """0 or 1."""
    right = not isinstance(value, list) and len(value) == 1 and float(value[0]) in (0.0, 1.0)
    check(right, "manifest.test", f"is not 0 or 1 in row {number}")
    return bool(cast("Array", value)[0])


def _text(value: bytes, place: str, number: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid(place, f"is not UTF-8 text in row {number}") from None


def _flush(block: _Block, spool: Spool) -> None:
    """Hand the rows over as arrays; rows of one column have one type and one length."""
    if not block.labels:
        return
    first = spool.rows + 1
    columns = [
        _stacked(rows, f"manifest.features[{at}]", first) for at, rows in enumerate(block.features)
    ]
    label = _stacked(block.labels, "manifest.label", first)
    test = np.asarray(block.tests, np.bool_) if block.tests else None
    spool.append(columns, label, np.asarray(block.clients, np.int64), test)


def _stacked(rows: list[Array], place: str, first: int) -> Array:
    for number, row in enumerate(rows, start=first):
        if row.shape != rows[0].shape or row.dtype != rows[0].dtype:
            raise invalid(place, f"has another type or length in row {number} than before")
    return np.stack(rows)
