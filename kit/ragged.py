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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from kit.ragged_manifest import (
    DTYPES,
    FORMAT,
    MANIFEST,
    MANIFEST_BYTES,
    OFFSETS,
    Array,
    Column,
    Indices,
    Manifest,
    StoreDamaged,
)
from kit.ragged_writer import RaggedWriter, write

__all__ = [
    "DTYPES",
    "FORMAT",
    "MANIFEST",
    "OFFSETS",
    "Column",
    "Manifest",
    "RaggedStore",
    "RaggedWriter",
    "StoreDamaged",
    "damaged_files",
    "descriptors",
    "ragged_rows",
    "read_manifest",
    "write",
]

_BLOCK = 1 << 22


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
