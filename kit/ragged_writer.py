"""Builds a client store: whole clients appended, files hashed as they are written, then sealed.

The directory appears only when everything is in it, and nobody changes it afterwards. A writer must
never leave a half store where a reader would look.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from kit.ragged_manifest import MANIFEST, OFFSETS, Array, Column, Indices, Manifest, dump


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
        (self._scratch / MANIFEST).write_bytes(dump(manifest.canonical()))
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
