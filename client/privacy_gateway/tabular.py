"""The ledger's export as a table: CSV and Parquet that lead back to the same bytes.

A row stands for one line of the JSON-lines export, in the same order. `leaf`, `hash` and
`prev_hash` hold the line byte for byte; the other columns are read from it, so that a spreadsheet
or a data frame can add up exact integers without parsing JSON. Reading goes the other way and
compares every cell with the line it stands for: an edited number is found although the sealed text
beside it is intact. Nothing here may hold more than a few thousand rows at a time.

Costs and balances are in pico-nats, one number an order (`privacy_gateway.rdp.ORDERS`); ε in
billionths; times in microseconds since 1970 UTC. Parquet has them as `list<int64>` and `int64`, CSV
as JSON arrays and decimal text. `pyarrow` is imported only when Parquet is read or written.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, Literal

from privacy_gateway import chain
from privacy_gateway.errors import Refused, invalid

Form = Literal["jsonl", "csv", "parquet"]
Row = tuple[Any, ...]

TEXT: Final = "text"
NUMBER: Final = "number"
VECTOR: Final = "vector"
FLAG: Final = "flag"

# A name, what it holds, and for people what it means. The order is the order of the columns.
COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("record", TEXT, "`header`, `entry`, `head`, `order`, `proof` or `checkpoint`"),
    ("population", TEXT, "whose chain"),
    ("seq", NUMBER, "place in the chain, from 1, without gaps"),
    ("kind", TEXT, "of the entry: `open`, `grant`, `reserve`, `charge`, `void`, …"),
    ("at", NUMBER, "time, microseconds since 1970 UTC"),
    ("job", TEXT, "the job"),
    ("researcher", TEXT, "whose job"),
    ("actor", TEXT, "who acted"),
    ("purpose", TEXT, "stated purpose of the job"),
    ("project", TEXT, "project of the job"),
    ("dataset", TEXT, "data set version"),
    ("round_first", NUMBER, "first round of a charged block"),
    ("rounds", NUMBER, "rounds reserved, charged or given back"),
    ("attempt", NUMBER, "attempt of a charge"),
    ("fence", NUMBER, "fence of the worker that charged"),
    ("mechanism_digest", TEXT, "SHA-256 of the mechanism's canonical form"),
    ("mechanism", TEXT, "the mechanism, canonical JSON"),
    ("per_round", VECTOR, "price of one round, pico-nats an order"),
    ("cost", VECTOR, "price of all rounds, pico-nats an order"),
    ("grant_epsilon_nano", NUMBER, "ε added by a grant, billionths"),
    ("epsilon_nano", NUMBER, "ε of the budget after the entry, billionths"),
    ("charged", VECTOR, "charged after the entry, pico-nats an order"),
    ("reserved", VECTOR, "reserved after the entry, pico-nats an order"),
    ("frozen", FLAG, "whether spending is stopped after the entry"),
    ("prev_hash", TEXT, "seal of the entry before"),
    ("hash", TEXT, "seal of this entry"),
    ("leaf", TEXT, "what was sealed, canonical JSON; of other records the whole line"),
)
NAMES: Final = tuple(name for name, _, _ in COLUMNS)
SUFFIXES: Final[dict[str, Form]] = {".csv": "csv", ".parquet": "parquet"}

# Rows of one Parquet row group: what is held in memory, about 10 MB.
GROUP_ROWS: Final = 4096
_RECORDS: Final = ("format", "head", "order", "proof", "checkpoint")
# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_FREE_TEXT: Final = frozenset({"actor", "researcher", "job", "purpose", "project", "dataset"})
_AT: Final = {name: place for place, name in enumerate(NAMES)}
# Stands for a line that cannot be restored; no reader of lines takes it for one.
_DAMAGED: Final = b""


def row_of(line: bytes) -> Row:
    """The row of one exported line; cells are None where they have no meaning.

    Raises:
        ValueError: the line is none of the export's.
    """
    cut = chain.read_line(line)
    if cut is None:
        return _other(line)
    leaf = json.loads(cut.leaf)
    facts, balance = _object(leaf.get("facts")), _object(leaf.get("balance"))
    granted = leaf.get("epsilon_nano")
    cells: dict[str, Any] = {name: leaf.get(name) for name in NAMES}
    cells |= {name: _first(name, facts, leaf) for name in ("purpose", "project", "dataset")}
    cells |= {name: balance.get(name) for name in ("epsilon_nano", "charged", "reserved", "frozen")}
    mechanism = leaf.get("mechanism")
    cells |= {
        "record": "entry",
        "mechanism": None if mechanism is None else _json(mechanism),
        "grant_epsilon_nano": granted,
        "prev_hash": cut.prev,
        "hash": cut.hash,
        "leaf": cut.leaf.decode(),
    }
    return tuple(_typed(cells[name], kind) for name, kind, _ in COLUMNS)


def line_of(row: Row) -> bytes:
    """The exported line a row stands for; empty where a cell contradicts it.

    An empty line is one that no verifier can read, so the damage is reported at its place.
    """
    try:
        leaf = row[_AT["leaf"]].encode()
        if row[_AT["record"]] == "entry":
            line = chain.write_line(row[_AT["hash"]], leaf, row[_AT["prev_hash"]])
        else:
            line = leaf
        return line if row_of(line) == row else _DAMAGED
    except (AttributeError, TypeError, ValueError):
        return _DAMAGED


def csv_chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The export as CSV (RFC 4180, UTF-8, line feeds), in blocks.

    Free text that a spreadsheet would run as a formula is led by an apostrophe, except in `leaf`.
    """
    yield _csv([NAMES])
    rows = (row_of(line) for line in lines)
    while block := list(islice(rows, 256)):
        yield _csv([[_cell(name, value) for name, value in zip(NAMES, row, strict=True)]
                    for row in block])  # fmt: skip


def parquet_chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The export as one Parquet file (zstd, page checksums), a block a row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, sink = _schema(), _Sink()
    rows = (row_of(line) for line in lines)
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"),
        schema,
        compression="zstd",
        write_page_checksum=True,
        # Texts are nearly all different; dictionaries would only be given up again.
        use_dictionary=["record", "population", "kind", "researcher", "purpose", "mechanism"],
    ) as writer:
        while block := list(islice(rows, GROUP_ROWS)):
            columns = [
                pa.array(column, type=field.type)
                for column, field in zip(zip(*block, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            yield sink.taken()
    yield sink.taken()


def csv_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines of the export that a CSV holds.

    Raises:
        Refused: `invalid_request` naming `export` when the columns are others.
    """
    csv.field_size_limit(1 << 30)
    with io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="") as text:
        reader = csv.reader(text)
        if tuple(next(reader, ())) != NAMES:
            raise invalid("export", "the columns are not those of a ledger's CSV")
        for cells in reader:
            yield line_of(_uncell(cells)) if len(cells) == len(NAMES) else _DAMAGED


def parquet_lines(path: Path) -> Iterator[bytes]:
    """Lines of the export that a Parquet file holds.

    Raises:
        Refused: `unsupported` without pyarrow; `invalid_request` naming `export` when the file
            cannot be read, or its columns are others.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        detail = "Parquet needs `pyarrow`: pip install 'privacy-gateway[parquet]'"
        raise Refused("unsupported", detail) from error
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if file.schema_arrow != _schema():
                raise invalid("export", "the columns are not those of a ledger's Parquet")
            for batch in file.iter_batches(batch_size=GROUP_ROWS):
                columns = [column.to_pylist() for column in batch.columns]
                for row in zip(*columns, strict=True):
                    yield line_of(tuple(map(_tuple, row)))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise invalid("export", f"{path} is damaged or no Parquet: {error}"[:300]) from error


WRITERS: Final[Mapping[str, Callable[[Iterable[bytes]], Iterator[bytes]]]] = {
    "jsonl": lambda lines: (line + b"\n" for line in lines),
    "csv": csv_chunks,
    "parquet": parquet_chunks,
}


def form_of(path: Path) -> Form:
    """The form a file's name stands for."""
    return SUFFIXES.get(path.suffix.lower(), "jsonl")


@contextmanager
def opened(path: Path) -> Iterator[Iterable[bytes]]:
    """Lines of an export in any of its forms, told by the file's name.

    Raises:
        OSError: the file cannot be opened.
        Refused: `invalid_request` naming `export`, while reading.
    """
    form = form_of(path)
    with path.open("rb") as file:
        if form == "parquet":
            yield parquet_lines(path)
        else:
            yield csv_lines(file) if form == "csv" else file


class _Sink(io.RawIOBase):
    """What the Parquet writer has written and nobody has taken yet."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        block = bytes(data)
        self._blocks.append(block)
        self._written += len(block)
        return len(block)

    def taken(self) -> bytes:
        """Everything since the last time."""
        blocks, self._blocks = self._blocks, []
        return b"".join(blocks)


def _other(line: bytes) -> Row:
    """The row of a line that is no entry: what it is called, and its whole text."""
    value = json.loads(line)
    record = next((name for name in _RECORDS if name in value), None)
    if record is None:
        raise ValueError("the line is none of a ledger's export")
    body = _object(value[record])
    cells: dict[str, Any] = dict.fromkeys(NAMES)
    cells |= {"record": "header" if record == "format" else record, "leaf": line.decode()}
    cells |= {name: body.get(name) for name in ("population", "seq", "hash")}
    return tuple(_typed(cells[name], kind) for name, kind, _ in COLUMNS)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(name: str, *objects: Mapping[str, Any]) -> Any:
    return next((found[name] for found in objects if name in found), None)


def _typed(value: Any, kind: str) -> Any:
    """The value if it is of the column's kind; the leaf alone tells of what is not."""
    if kind == VECTOR:
        return tuple(value) if isinstance(value, list) and all(map(_fits, value)) else None
    if kind == NUMBER:
        return value if _fits(value) else None
    if kind == FLAG:
        return value if isinstance(value, bool) else None
    # CSV cannot tell an empty text from an absent one.
    return (value or None) if isinstance(value, str) else None


def _fits(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _schema() -> Any:
    import pyarrow as pa

    types = {
        TEXT: pa.string(),
        NUMBER: pa.int64(),
        VECTOR: pa.list_(pa.int64()),
        FLAG: pa.bool_(),
    }
    return pa.schema([(name, types[kind]) for name, kind, _ in COLUMNS])


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if name in _FREE_TEXT and _led(value) else value
    return _json(value)


def _led(text: str) -> bool:
    """Whether a text needs an apostrophe before it, or has one that must not be taken for it."""
    return text.startswith((*_FORMULA, "'"))


def _uncell(cells: list[str]) -> Row:
    """Inverse of `_cell`."""
    row: list[Any] = []
    for (name, kind, _), cell in zip(COLUMNS, cells, strict=True):
        if not cell:
            row.append(None)
        elif kind == TEXT:
            free = name in _FREE_TEXT and cell.startswith("'")
            row.append(cell[1:] if free else cell)
        else:
            try:
                row.append(_typed(json.loads(cell), kind))
            except ValueError:
                row.append(cell)
    return tuple(row)
