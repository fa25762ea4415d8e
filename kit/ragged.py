"""The client store: every person's rows, side by side, memory-mapped.

One directory holds one split of one dataset version: `manifest.json`, one file of C-order rows for
each column and `offsets.bin` (int64, clients + 1). Client c owns rows offsets[c]:offsets[c + 1] of
every column. Rows of one client are contiguous, so a cohort is read with a handful of page faults
and a million clients cost eight megabytes of offsets.

It must never hold who a client is (positions only, the owner keeps the key), never store a Python
object, and never be changed after it was sealed: its digest is what the ledger refers to.
"""

import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeAlias

import numpy as np
import numpy.typing as npt

FORMAT = "privacy-gateway-ragged/1"
MANIFEST = "manifest.json"
OFFSETS = "offsets.bin"
MANIFEST_BYTES = 1 << 20
ROW_ELEMENTS = 1 << 28
DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "int64", "float32", "float64")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_BLOCK = 1 << 22

Array: TypeAlias = npt.NDArray[Any]
Indices: TypeAlias = npt.NDArray[np.int64]


class StoreDamaged(ValueError):
    """A store whose files do not agree with its manifest; carries no row of data."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a store.

    Attributes:
        name: letters, digits, `_` and `-`, at most 64; also the stem of the file's name.
        dtype: one of DTYPES.
        shape: shape of one row, `()` for a scalar.
        scale: public constant that a reader multiplies rows with after the cast to float
            (1/255 keeps images in one byte per pixel); 1.0 means "as stored".
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "offsets":
            raise ValueError(
                f"Expected a column name of letters, digits, _ and -, not {self.name!r}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"Expected {self.name} dtype in {DTYPES}, not {self.dtype!r}")
        if len(self.shape) > 4 or any(side < 1 for side in self.shape):
            raise ValueError(f"Expected {self.name} shape of at most 4 positive sides")
        if self.row_elements > ROW_ELEMENTS or not np.isfinite(self.scale) or self.scale <= 0:
            raise ValueError(f"Expected {self.name} with a bounded row and a positive finite scale")

    @property
    def file(self) -> str:
        """Name of the column's file inside the store."""
        return f"{self.name}.bin"

    @property
    def row_elements(self) -> int:
        """Numbers in one row."""
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.row_elements * np.dtype(self.dtype).itemsize

    def canonical(self) -> dict[str, object]:
        """The column as it stands in the manifest."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "scale": repr(self.scale),
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store holds, and the SHA-256 of each of its files."""

    clients: int
    examples: int
    columns: tuple[Column, ...]
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical manifest; names the dataset version's content."""
        return hashlib.sha256(_dump(self.canonical())).hexdigest()

    def canonical(self) -> dict[str, object]:
        """The manifest as plain JSON values."""
        return {
            "format": FORMAT,
            "clients": self.clients,
            "examples": self.examples,
            "columns": [column.canonical() for column in self.columns],
            "files": dict(sorted(self.files.items())),
        }

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a manifest strictly; StoreDamaged when it is not one."""
        try:
            columns = tuple(
                Column(c["name"], c["dtype"], tuple(map(int, c["shape"])), float(c["scale"]))
                for c in value["columns"]
            )
            files = {str(name): str(digest) for name, digest in value["files"].items()}
            manifest = cls(int(value["clients"]), int(value["examples"]), columns, files)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreDamaged("the store's manifest cannot be read") from error
        if value.get("format") != FORMAT or set(files) != manifest.expected_files():
            raise StoreDamaged(f"Expected a {FORMAT} manifest that lists every file")
        return manifest

    def expected_files(self) -> set[str]:
        """Names of the files the columns call for."""
        return {OFFSETS, *(column.file for column in self.columns)}

    def column(self, name: str) -> Column:
        """The column of that name; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(slots=True)
class _Sink:
    """A file being written together with its running digest."""

    file: BinaryIO
    sha: Any = field(default_factory=hashlib.sha256)

    def write(self, rows: Array) -> None:
        """Append rows in C order."""
        data = np.ascontiguousarray(rows).data.cast("B") if rows.size else b""
        self.file.write(data)
        self.sha.update(data)

    def close(self) -> str:
        """Flush to disk and give the digest."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return str(self.sha.hexdigest())


class RaggedWriter:
    """Builds a store by appending whole clients; the directory appears only when sealed.

    A context manager: leaving it normally seals the store (see `manifest`), leaving it by an
    exception removes everything that was written.
    """

    def __init__(self, directory: Path, columns: Sequence[Column]) -> None:
        """Start a store at `directory`, which must not exist yet (FileExistsError)."""
        if directory.exists():
            raise FileExistsError(directory)
        if not columns or len({column.name for column in columns}) != len(columns):
            raise ValueError("Expected at least one column and no name twice")
        self.columns = tuple(columns)
        self.manifest: Manifest | None = None
        self._directory = directory
        self._scratch = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
        self._scratch.mkdir(parents=True, mode=0o700)
        self._sinks = {c.name: _Sink((self._scratch / c.file).open("wb")) for c in columns}
        self._lengths: list[Indices] = []
        self._examples = 0

    def append(self, sizes: Sequence[int] | Indices, rows: Mapping[str, Array]) -> None:
        """Append clients.

        Args:
            sizes: examples of each appended client, in order; at least 0 each.
            rows: for every column the rows of all these clients, concatenated; the first axis is
                `sum(sizes)`, dtype and row shape are the column's own (ValueError otherwise).
        """
        lengths = np.asarray(sizes, dtype=np.int64)
        total = int(lengths.sum())
        if lengths.ndim != 1 or bool((lengths < 0).any()):
            raise ValueError("Expected client sizes ≥ 0 in one dimension")
        if set(rows) != set(self._sinks):
            raise ValueError(f"Expected rows of {sorted(self._sinks)}, not {sorted(rows)}")
        for column in self.columns:
            given = rows[column.name]
            if given.shape != (total, *column.shape) or given.dtype != np.dtype(column.dtype):
                raise ValueError(
                    f"Expected {column.name} as {column.dtype}{(total, *column.shape)}, "
                    f"not {given.dtype}{given.shape}"
                )
        for column in self.columns:
            self._sinks[column.name].write(rows[column.name])
        self._lengths.append(lengths)
        self._examples += total

    def seal(self) -> Manifest:
        """Write offsets and manifest, move the store to its place and return the manifest."""
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        with_offsets = _Sink((self._scratch / OFFSETS).open("wb"))
        with_offsets.write(np.cumsum(lengths, dtype=np.int64))
        files = {c.file: self._sinks[c.name].close() for c in self.columns}
        files[OFFSETS] = with_offsets.close()
        manifest = Manifest(len(lengths) - 1, self._examples, self.columns, files)
        (self._scratch / MANIFEST).write_bytes(_dump(manifest.canonical()))
        for path in self._scratch.iterdir():
            path.chmod(0o400)
        self._scratch.rename(self._directory)
        self.manifest = manifest
        return manifest

    def abandon(self) -> None:
        """Remove what was written so far."""
        for sink in self._sinks.values():
            sink.file.close()
        for path in self._scratch.iterdir():
            path.unlink()
        self._scratch.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abandon()
        elif self.manifest is None:
            self.seal()


class RaggedStore:
    """A sealed store, opened read-only; columns are memory maps, nothing is loaded up front."""

    def __init__(self, manifest: Manifest, descriptors: Mapping[str, int]) -> None:
        """Map the files behind `descriptors` (file name → readable descriptor).

        The descriptors are not closed and may be closed by the caller afterwards. Nothing is read
        but both ends of the offsets, whatever the number of clients; the others are checked where
        they are used (`ragged_rows`).
        StoreDamaged when a file's size or the offsets contradict the manifest.
        """
        self.manifest = manifest
        self._columns = {
            column.name: _map(
                descriptors[column.file], column.dtype, (manifest.examples, *column.shape)
            )
            for column in manifest.columns
        }
        self.offsets: Indices = _map(descriptors[OFFSETS], "int64", (manifest.clients + 1,))
        ends = (int(self.offsets[0]), int(self.offsets[-1]))
        if ends != (0, manifest.examples):
            raise StoreDamaged("the store's offsets contradict its manifest")

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the store in `directory`; StoreDamaged or OSError when that is impossible."""
        with descriptors(directory) as (manifest, files):
            return cls(manifest, files)

    @property
    def clients(self) -> int:
        """Number of clients, empty ones included."""
        return self.manifest.clients

    def column(self, name: str) -> Array:
        """All rows of a column, read-only, memory-mapped; KeyError for an unknown name."""
        return self._columns[name]

    def sizes(self, clients: Indices) -> Indices:
        """Examples of each given client."""
        return self.offsets[clients + 1] - self.offsets[clients]


@contextmanager
def descriptors(directory: Path) -> Iterator[tuple[Manifest, dict[str, int]]]:
    """Open a store's files read-only for the time of a `with` block.

    Yields the manifest and file name → descriptor: all that another process needs to map the
    store (`RaggedStore(manifest, files)`) without being able to open a path.
    """
    manifest = read_manifest(directory)
    files: dict[str, int] = {}
    try:
        for name in sorted(manifest.expected_files()):
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            files[name] = os.open(directory / name, flags)
        yield manifest, files
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the store in `directory`; StoreDamaged when it is not one."""
    with (directory / MANIFEST).open("rb") as file:
        data = file.read(MANIFEST_BYTES + 1)
    if len(data) > MANIFEST_BYTES:
        raise StoreDamaged(f"Expected a manifest of at most {MANIFEST_BYTES} bytes")
    try:
        return Manifest.parse(json.loads(data))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreDamaged("the store's manifest is not JSON") from error


def write(
    directory: Path,
    rows: Mapping[str, Array],
    sizes: Sequence[int] | Indices,
    *,
    scales: Mapping[str, float] | None = None,
) -> Manifest:
    """Write a whole store at once.

    Args:
        directory: where; must not exist yet.
        rows: column name → rows, grouped by client, one after the other.
        sizes: examples of each client, in the same order.
        scales: column name → public factor, see `Column.scale`.

    Returns:
        The sealed manifest; its `digest` names the content.
    """
    factors = scales or {}
    columns = [
        Column(name, str(array.dtype), array.shape[1:], factors.get(name, 1.0))
        for name, array in rows.items()
    ]
    with RaggedWriter(directory, columns) as writer:
        writer.append(sizes, rows)
        return writer.seal()


def damaged_files(directory: Path) -> list[str]:
    """Names of files whose content no longer has the manifest's SHA-256 (reads everything)."""
    with descriptors(directory) as (manifest, files):
        return [name for name, fd in files.items() if _sha256(fd) != manifest.files[name]]


def ragged_rows(offsets: Indices, clients: Indices) -> tuple[Indices, Indices]:
    """Row numbers of some clients and where each client begins among them.

    Returns:
        `(rows, starts)`: int64 row numbers in client order, and int64 offsets (clients + 1).

    Raises:
        StoreDamaged: the offsets of these clients fall, overlap or leave the store.
    """
    begins, ends = offsets[clients], offsets[clients + 1]
    _orderly(begins, ends, clients, int(offsets[-1]))
    lengths = ends - begins
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    shift = np.repeat(begins - starts[:-1], lengths)
    return np.arange(int(starts[-1]), dtype=np.int64) + shift, starts


def _orderly(begins: Indices, ends: Indices, clients: Indices, rows: int) -> None:
    """Each client's rows lie inside the store, and no two of these clients share one."""
    if not len(clients):
        return
    inside = int(begins.min()) >= 0 and int(ends.max()) <= rows
    order = np.argsort(clients, kind="stable")
    each = np.diff(clients[order]) > 0
    apart = begins[order][1:] >= ends[order][:-1]
    if not inside or bool((ends < begins).any()) or not bool(apart[each].all()):
        raise StoreDamaged("the store's offsets contradict its manifest")


def _map(descriptor: int, dtype: str, shape: tuple[int, ...]) -> Array:
    """Map one file; its size must be exactly what dtype and shape say."""
    expected = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if os.fstat(descriptor).st_size != expected:
        raise StoreDamaged("a file of the store has another size than its manifest says")
    if expected == 0:
        return np.empty(shape, dtype)
    mapped = mmap.mmap(descriptor, expected, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype).reshape(shape)


def _sha256(descriptor: int) -> str:
    """SHA-256 of a whole file."""
    sha, position = hashlib.sha256(), 0
    while block := os.pread(descriptor, _BLOCK, position):
        sha.update(block)
        position += len(block)
    return sha.hexdigest()


def _dump(value: object) -> bytes:
    """Canonical JSON of a manifest (strings, integers, lists only)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
