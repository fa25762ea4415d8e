"""Reads NPZ archives without NumPy's loader: sizes are known before a byte is unpacked.

`numpy.load` would allocate what a header asks for and can be told to unpickle; here each member is
checked against the archive's directory and its own header, then copied to scratch space and mapped.
Objects, structures and other formats than 1.0 and 2.0 are refused, and must stay so.
Format: numpy.lib.format (NEP 1).
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from jobs.ingest_source import (
    BLOCK_BYTES,
    SOURCE,
    Array,
    Codes,
    Limits,
    Mask,
    Records,
    Source,
    check,
    of_this_machine,
    unreadable,
    within,
)
from privacy_gateway import npz_files
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

_HEADER_BYTES = 10_000
_ENCRYPTED = 0x1
_NUMBERS = "buif"
_WHOLE = "bui"


@dataclass(frozen=True, slots=True)
class _Member:
    """One array of the archive, described by its header, not yet unpacked."""

    field: str
    entry: zipfile.ZipInfo
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran_order: bool
    header_bytes: int

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    @property
    def data_bytes(self) -> int:
        """Bytes that dtype and shape call for, as an unbounded integer."""
        return math.prod(self.shape) * self.dtype.itemsize


class _Archive:
    """The named arrays of one archive, under limits."""

    def __init__(self, archive: zipfile.ZipFile, scratch: Path, limits: Limits) -> None:
        entries = archive.infolist()
        within(len(entries), limits.members, "the archive has too many members")
        self._entries = {entry.filename: entry for entry in entries}
        check(len(self._entries) == len(entries), SOURCE, "a member of the archive appears twice")
        self._archive = archive
        self._scratch = scratch
        self._limits = limits
        self._unpacked = 0

    def member(self, name: str, field: str) -> _Member:
        """Header of array `name`; nothing of its data is unpacked."""
        entry = self._entries.get(f"{name}.npy")
        if entry is None:
            raise invalid(field, f"the archive holds no array {name!r}", value=name)
        check(not entry.flag_bits & _ENCRYPTED, SOURCE, "the archive is encrypted")
        check(
            entry.compress_type in npz_files.COMPRESSIONS,
            SOURCE,
            "the archive is not stored or deflated",
        )
        self._unpacked += entry.file_size
        within(self._unpacked, self._limits.unpacked_bytes, "the arrays unpack to too many bytes")
        with self._archive.open(entry) as stream:
            # A header that claims gigabytes must not be read whole before it is judged.
            start = stream.read(_HEADER_BYTES)
        member = _described(start, entry, field)
        check(
            member.entry.file_size == member.header_bytes + member.data_bytes,
            field,
            "the array's header and its size in the archive disagree",
        )
        within(member.rows, self._limits.rows, "the array has too many rows", field)
        return member

    def unpack(self, member: _Member) -> Array:
        """Copy the member's data to scratch space and map it read-only."""
        if member.data_bytes == 0:
            return np.empty(member.shape, member.dtype)
        path = self._scratch / f"{member.entry.header_offset}.raw"
        with self._archive.open(member.entry) as stream, path.open("wb") as target:
            stream.read(member.header_bytes)
            _copy(stream, target, member.data_bytes)
        order: Literal["F", "C"] = "F" if member.fortran_order else "C"
        mapped: Array = np.memmap(path, member.dtype, mode="r", shape=member.shape, order=order)
        return mapped


def read(path: Path, manifest: Manifest, scratch: Path, limits: Limits) -> Source:
    """The arrays a manifest names, mapped from scratch space.

    Args:
        path: an NPZ archive.
        manifest: which arrays are features, label, client and test.
        scratch: an empty directory that outlives the result.
        limits: ceilings.

    Raises:
        Refused: `invalid_request` or `too_large`, naming the member of the manifest at fault, or
            `source` when the file itself is.
    """
    with _opened(path) as archive:
        opened = _Archive(archive, scratch, limits)
        features = _features(opened, manifest, limits)
        label = _vector(opened, manifest.label, "manifest.label", _NUMBERS)
        client = _vector(opened, manifest.client, "manifest.client", "uiSU")
        within(
            client.dtype.itemsize, limits.client_bytes, "a client id is too long", "manifest.client"
        )
        # Compressed, gigabytes of zeros are a small file; this one column is sorted in memory.
        within(
            client.data_bytes,
            limits.client_column_bytes,
            "the client ids take too many bytes",
            "manifest.client",
        )
        test = None
        if manifest.test is not None:
            test = _vector(opened, manifest.test, "manifest.test", _WHOLE)
        _same_rows([*features, label, client, *([test] if test else [])])
        ids, ranks = _ranks(opened.unpack(client))
        records = Records(
            tuple(opened.unpack(member) for member in features),
            opened.unpack(label),
            ranks,
            None if test is None else _mask(opened.unpack(test)),
            ids,
        )
        return Source(records, _public_test(opened, manifest, features))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; every way in which it can be broken is one refusal."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except npz_files.DAMAGED as error:
        if of_this_machine(error):
            raise
        raise invalid(SOURCE, "the file is not an intact NPZ archive") from error


def _described(start: bytes, entry: zipfile.ZipInfo, field: str) -> _Member:
    """What a header says, where it says plain numbers or text."""
    stream = io.BytesIO(start)
    try:
        shape, fortran_order, dtype = npz_files.header(stream, most_bytes=_HEADER_BYTES)
    except npz_files.HeaderRefused as refused:
        raise invalid(field, f"the array {refused}") from refused
    check(not dtype.hasobject, field, "holds Python objects; only plain numbers are read")
    check(dtype.kind in "buifSU", field, f"has type {dtype.kind!r}; only plain numbers are read")
    check(
        len(shape) >= 1 and all(type(side) is int and side >= 0 for side in shape),
        field,
        "is not an array with one row for each record",
    )
    return _Member(field, entry, dtype, shape, fortran_order, stream.tell())


def _features(archive: _Archive, manifest: Manifest, limits: Limits) -> list[_Member]:
    """Headers of the feature arrays."""
    members = [
        archive.member(name, f"manifest.features[{index}]")
        for index, name in enumerate(manifest.features)
    ]
    for member in members:
        check(member.dtype.kind in _NUMBERS, member.field, "is not numeric")
        check(
            len(members) == 1 or len(member.shape) <= 2,
            member.field,
            "has more than one axis per record; only one such array can be the features",
        )
        check(len(member.shape) <= 5, member.field, "has more than 4 axes per record")
    elements = sum(math.prod(member.shape[1:]) for member in members)
    within(elements, limits.row_elements, "a record has too many numbers", "manifest.features")
    check(elements >= 1, "manifest.features", "have no number in a record")
    return members


def _vector(archive: _Archive, name: str, field: str, kinds: str) -> _Member:
    """Header of a column with one value a row."""
    member = archive.member(name, field)
    check(len(member.shape) == 1, field, "does not have exactly one value for each record")
    check(
        member.dtype.kind in kinds, field, f"has type {member.dtype}, which this column cannot be"
    )
    return member


def _same_rows(members: list[_Member]) -> None:
    """All columns describe the same records."""
    rows = members[0].rows
    check(rows >= 1, SOURCE, "the file holds no record")
    for member in members:
        check(
            member.rows == rows,
            member.field,
            f"has {member.rows} rows where {members[0].field} has {rows}",
            value=member.rows,
            limit=rows,
        )


def _public_test(archive: _Archive, manifest: Manifest, features: list[_Member]) -> Records | None:
    """The separate arrays of public test records, if the manifest names them."""
    if manifest.test_features is None or manifest.test_label is None:
        return None
    member = archive.member(manifest.test_features, "manifest.test_features")
    label = _vector(archive, manifest.test_label, "manifest.test_label", _NUMBERS)
    check(
        len(features) == 1 and member.shape[1:] == features[0].shape[1:],
        member.field,
        "does not have the shape of the features",
    )
    check(member.dtype == features[0].dtype, member.field, "does not have the type of the features")
    _same_rows([member, label])
    everybody = np.zeros(label.rows, np.int64)
    return Records((archive.unpack(member),), archive.unpack(label), everybody)


def _ranks(ids: Array) -> tuple[list[Any], Codes]:
    """The sorted ids, and each row's client as its rank among them."""
    unique, ranks = np.unique(np.asarray(ids), return_inverse=True)
    return unique.tolist(), ranks.astype(np.int64, copy=False)


def _mask(flags: Array) -> Mask:
    """A 0/1 column as booleans."""
    values = np.asarray(flags)
    check(bool(((values == 0) | (values == 1)).all()), "manifest.test", "is not 0 or 1 everywhere")
    return values.astype(np.bool_)


def _copy(stream: IO[bytes], target: IO[bytes], size: int) -> None:
    """Exactly `size` bytes, whatever the archive's directory promised."""
    left = size
    while left > 0:
        block = stream.read(min(left, BLOCK_BYTES))
        if not block:
            unreadable("the archive ends before its arrays do")
        target.write(block)
        left -= len(block)
    # Reading to the end lets zipfile verify the member's CRC.
    if stream.read(1):
        unreadable("a member of the archive is longer than its array")
