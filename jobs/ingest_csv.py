"""Reads CSV as a stream: memory holds one block of rows and the clients' ids.

RFC 4180 with a header line, UTF-8, numbers in plain decimal notation. A cell that is not a finite
number is refused by row and column name; its text is never repeated.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
import numpy.typing as npt

from jobs.ingest_source import SOURCE, Codes, Limits, Records, Source, check, unreadable, within
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

_ROWS_PER_BLOCK = 4096
# A cell takes some fifty bytes as text, whatever it holds.
_CELLS_PER_BLOCK = 1 << 20
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Positions of the manifest's columns in a line."""

    width: int
    features: tuple[int, ...]
    label: int
    client: int
    test: int | None


@dataclass(slots=True)
class _Columns:
    """What is kept in memory while features stream to disk."""

    client_codes: dict[str, int] = field(default_factory=dict)
    client: array[int] = field(default_factory=lambda: array("q"))
    label: array[float] = field(default_factory=lambda: array("d"))
    test: array[int] = field(default_factory=lambda: array("b"))


def read(path: Path, manifest: Manifest, scratch: Path, limits: Limits) -> Source:
    """The columns a manifest names; features land in scratch space as float32.

    Args:
        path: a CSV file with a header line.
        manifest: which columns are features, label, client and test.
        scratch: an empty directory that outlives the result.
        limits: ceilings.

    Raises:
        Refused: `invalid_request` or `too_large`, naming the member of the manifest at fault, or
            `source` when the file itself is.
    """
    for name in ("test_features", "test_label"):
        check(
            getattr(manifest, name) is None,
            f"manifest.{name}",
            "names an array; a CSV file marks its test rows in the column `test`",
        )
    spool = scratch / "features.raw"
    columns = _Columns()
    with path.open(encoding="utf-8-sig", newline="") as text, spool.open("wb") as target:
        rows = _rows(text, limits)
        layout = _layout(next(rows, []), manifest)
        _stream(rows, layout, columns, target, limits)
    count = len(columns.label)
    check(count >= 1, SOURCE, "the file holds no record")
    features = np.memmap(spool, np.float32, "r", shape=(count, len(layout.features)))
    test = None if layout.test is None else np.asarray(columns.test, dtype=np.bool_)
    label = np.asarray(columns.label, dtype=np.float64)
    ids, ranks = _ranks(columns)
    return Source(Records((features,), label, ranks, test, ids))


def _layout(header: list[str], manifest: Manifest) -> _Layout:
    """Find every named column in the header line, exactly once."""
    names = [name.strip() for name in header]

    def position(name: str, at: str) -> int:
        check(
            names.count(name) == 1,
            at,
            f"the header names {name!r} {names.count(name)} times",
            value=name,
        )
        return names.index(name)

    return _Layout(
        width=len(names),
        features=tuple(
            position(name, f"manifest.features[{index}]")
            for index, name in enumerate(manifest.features)
        ),
        label=position(manifest.label, "manifest.label"),
        client=position(manifest.client, "manifest.client"),
        test=None if manifest.test is None else position(manifest.test, "manifest.test"),
    )


def _rows(text: TextIO, limits: Limits) -> Iterator[list[str]]:
    """Parsed lines; a line of a gigabyte or a broken quote ends in a refusal, not in memory."""
    csv.field_size_limit(limits.line_bytes)
    try:
        yield from csv.reader(_lines(text, limits.line_bytes), strict=True)
    except csv.Error as error:
        raise invalid(SOURCE, "the file is not CSV (RFC 4180)") from error
    except UnicodeDecodeError as error:
        raise invalid(SOURCE, "the file is not UTF-8 text") from error


def _lines(text: TextIO, limit: int) -> Iterator[str]:
    while line := text.readline(limit + 1):
        within(len(line), limit, "a line is too long")
        yield line


def _stream(
    rows: Iterator[list[str]], layout: _Layout, columns: _Columns, target: BinaryIO, limits: Limits
) -> None:
    """Parse block after block; only features leave memory."""
    row_bytes = 4 * len(layout.features)
    most = min(limits.rows, limits.unpacked_bytes // row_bytes)
    block: list[list[str]] = []
    together = max(1, min(_ROWS_PER_BLOCK, _CELLS_PER_BLOCK // len(layout.features)))
    for number, row in enumerate((row for row in rows if row), start=1):
        if len(row) != layout.width:
            unreadable(f"row {number} has {len(row)} cells, the header {layout.width}")
        within(number, most, "the file has too many rows")
        _take(row, number, layout, columns, limits)
        # Columns that nobody named may be any number.
        block.append([row[at] for at in layout.features])
        if len(block) == together:
            target.write(_numbers(block, number).tobytes())
            block.clear()
    if block:
        target.write(_numbers(block, len(columns.label)).tobytes())


def _take(row: list[str], number: int, layout: _Layout, columns: _Columns, limits: Limits) -> None:
    """Client, label and test mark of one row."""
    client = row[layout.client].strip()
    check(bool(client), "manifest.client", f"is empty in row {number}")
    within(len(client), limits.client_bytes, "a client id is too long", "manifest.client")
    codes = columns.client_codes
    columns.client.append(codes.setdefault(client, len(codes)))
    columns.label.append(_number(row[layout.label], number, "manifest.label"))
    if layout.test is not None:
        flag = _FLAGS.get(row[layout.test].strip().lower())
        check(flag is not None, "manifest.test", f"is not 0 or 1 in row {number}")
        columns.test.append(bool(flag))


def _numbers(block: list[list[str]], last: int) -> npt.NDArray[np.float32]:
    """Feature cells of a block, which ends with row `last`, as float32 (rows, features)."""
    try:
        # The common case, three times faster; a separator anywhere falls back to the careful way.
        if any("_" in cell for row in block for cell in row):
            raise ValueError
        values = [[float(cell) for cell in row] for row in block]
    except ValueError:
        first = last - len(block) + 1
        values = [
            [_number(cell, number, f"manifest.features[{i}]") for i, cell in enumerate(row)]
            for number, row in enumerate(block, start=first)
        ]
    return np.asarray(values, dtype=np.float64).astype(np.float32)


def _number(cell: str, row: int, at: str) -> float:
    """A cell as a double; Python's digit separators are no CSV."""
    try:
        if "_" in cell:
            raise ValueError
        return float(cell)
    except ValueError:
        raise invalid(at, f"is not a number in row {row}") from None


def _ranks(columns: _Columns) -> tuple[list[str], Codes]:
    """First-come codes → ranks among the sorted ids, so that row order cannot change the store."""
    ids = list(columns.client_codes)
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return sorted(ids), rank[np.asarray(columns.client, dtype=np.int64)]
