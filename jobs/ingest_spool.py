"""Collects what the streaming readers find: rows to disk, a few bytes a row in memory.

Whatever the format, rows come in any order and leave as columns of one type and one shape, with
clients as ranks among their sorted ids: the same records give the same store from every format.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jobs.ingest_source import SOURCE, Array, Codes, Limits, Mask, Records, Source, check, within
from privacy_gateway.errors import invalid

_KINDS = "buif"


@dataclass(slots=True)
class _Raw:
    """One column on its way to disk; the first block fixes type and shape of a row."""

    field: str
    path: Path
    file: BinaryIO | None = None
    dtype: np.dtype[np.generic] | None = None
    shape: tuple[int, ...] = ()

    def write(self, block: Array, row: int, limits: Limits) -> int:
        """Append rows, the first of which is number `row`; gives their bytes."""
        if self.file is None:
            check(block.dtype.kind in _KINDS, self.field, "is not numeric")
            check(block.ndim <= 5, self.field, "has more than 4 axes per record")
            elements = math.prod(block.shape[1:])
            within(elements, limits.row_elements, "a record has too many numbers", self.field)
            check(elements >= 1, self.field, "has no number in a record")
            self.dtype, self.shape = block.dtype, block.shape[1:]
            self.file = self.path.open("wb")
        if block.dtype != self.dtype or block.shape[1:] != self.shape:
            raise invalid(
                self.field,
                f"has another type or shape from row {row} on: {block.dtype}{block.shape[1:]} "
                f"after {self.dtype}{self.shape}",
            )
        if len(block):
            self.file.write(np.ascontiguousarray(block).data.cast("B"))
        return block.nbytes

    def mapped(self, rows: int) -> Array:
        """All rows, read-only."""
        kind = np.dtype(self.dtype)
        result: Array = np.memmap(self.path, kind, "r", shape=(rows, *self.shape))
        return result

    def close(self) -> None:
        """Flush what was written."""
        if self.file is not None:
            self.file.close()


@dataclass(slots=True)
class Spool:
    """Columns of one file; a context manager that closes its files.

    Attributes:
        scratch: an empty directory that outlives the result.
        limits: ceilings on rows, on one row and on all bytes.
        features: number of feature columns.
    """

    scratch: Path
    limits: Limits
    features: int
    rows: int = 0
    _columns: list[_Raw] = field(default_factory=list)
    _codes: dict[Any, int] = field(default_factory=dict)
    _client: array[int] = field(default_factory=lambda: array("q"))
    _test: bytearray = field(default_factory=bytearray)
    _bytes: int = 0

    def __enter__(self) -> Spool:
        names = [f"manifest.features[{index}]" for index in range(self.features)]
        self._columns = [
            _Raw(name, self.scratch / f"column-{index}.raw")
            for index, name in enumerate([*names, "manifest.label"])
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for column in self._columns:
            column.close()

    def append(
        self, features: Sequence[Array], label: Array, client: Codes, test: Mask | None = None
    ) -> None:
        """Take a block of rows.

        Args:
            features: one array (rows, …) for each feature column.
            label: (rows,).
            client: (rows,) codes of `code`.
            test: (rows,) marks of public test records; either always or never.

        Raises:
            Refused: a type or a shape that is not the first block's; `too_large`.
        """
        count = len(label)
        within(self.rows + count, self.limits.rows, "the file has too many rows")
        for column, block in zip(self._columns, [*features, label], strict=True):
            if len(block) != count:
                raise invalid(column.field, f"does not have one value for each of {count} records")
            self._bytes += column.write(block, self.rows + 1, self.limits)
        within(self._bytes, self.limits.unpacked_bytes, "the file unpacks to too many bytes")
        self._client.frombytes(np.ascontiguousarray(client, np.int64).tobytes())
        if test is not None:
            self._test += np.ascontiguousarray(test, np.uint8).tobytes()
        self.rows += count

    def code(self, client: Any, row: int) -> int:
        """A number for one client's id, which came with row `row`, counted from 1."""
        known = self._codes.get(client)
        if known is not None:
            return known
        check(client != "", "manifest.client", f"is empty in row {row}")
        if isinstance(client, str):
            size = len(client.encode("utf-8", "surrogatepass"))
            within(size, self.limits.client_bytes, "a client id is too long", "manifest.client")
        code = self._codes[client] = len(self._codes)
        return code

    def source(self) -> Source:
        """Everything appended, mapped from scratch space."""
        check(self.rows >= 1, SOURCE, "the file holds no record")
        self.__exit__()
        *features, label = (column.mapped(self.rows) for column in self._columns)
        ids, ranks = self._ranks()
        test = np.frombuffer(bytes(self._test), np.bool_) if self._test else None
        return Source(Records(tuple(features), label, ranks, test, ids))

    def _ranks(self) -> tuple[list[Any], Codes]:
        """First-come codes → ranks among the sorted ids: row order cannot change the store."""
        ids = list(self._codes)
        kinds = {type(client) for client in ids}
        check(len(kinds) == 1, "manifest.client", "is a number here and text there")
        order = sorted(range(len(ids)), key=ids.__getitem__)
        rank = np.empty(len(ids), np.int64)
        rank[order] = np.arange(len(ids))
        return [ids[at] for at in order], rank[np.frombuffer(self._client, np.int64)]
