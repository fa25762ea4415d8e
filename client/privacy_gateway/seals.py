"""The seals of an export, kept beside memory until the log's lines at its end ask for them.

Thirty-two bytes an entry are all that the tree needs, but a large ledger's do not belong into a
laptop's memory: beyond a few megabytes they go to a temporary file. A chain stands in one piece in
an honest export, so its place is one extent, and more only where chains or gaps alternate. This
module must never answer for an entry that it was not given.
"""

from __future__ import annotations

import bisect
import os
import tempfile
from typing import IO, Final, NamedTuple

SEAL_BYTES: Final = 32
IN_MEMORY: Final = 16 * 1024 * 1024
_FLUSHED: Final = 65_536


class _Extent(NamedTuple):
    """Entries of one chain that stand together: their first `seq`, rank and place, how many."""

    rank: int
    seq: int
    place: int


class Seals:
    """Seals by chain, in the order they were added."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._fresh = bytearray()
        self._extents: dict[str, list[_Extent]] = {}
        self._counts: dict[str, int] = {}
        self._total = 0
        self._chain: str | None = None
        self._next = 0

    def __enter__(self) -> Seals:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, chain: str, seq: int, seal: bytes) -> None:
        """Take the seal of a chain's entry; `seq` grows within a chain."""
        if chain != self._chain or seq != self._next:
            extent = _Extent(self._counts.setdefault(chain, 0), seq, self._total)
            self._extents.setdefault(chain, []).append(extent)
            self._chain = chain
        self._fresh += seal
        if len(self._fresh) >= _FLUSHED:
            self._flush()
        self._counts[chain] += 1
        self._total += 1
        self._next = seq + 1

    def count(self, chain: str) -> int:
        """How many seals of this chain were added."""
        return self._counts.get(chain, 0)

    def of(self, chain: str, seq: int) -> bytes | None:
        """The seal of one entry; None where it was not added."""
        extents = self._extents.get(chain, [])
        at = bisect.bisect_right(extents, seq, key=lambda extent: extent.seq) - 1
        if at < 0:
            return None
        rank = extents[at].rank + seq - extents[at].seq
        end = extents[at + 1].rank if at + 1 < len(extents) else self._counts[chain]
        return self.read(chain, rank, 1) if rank < end else None

    def read(self, chain: str, rank: int, count: int) -> bytes:
        """The seals `rank`, `rank` + 1, … of a chain, joined, fewer where it has no more."""
        extents = self._extents.get(chain, [])
        at = bisect.bisect_right(extents, rank, key=lambda extent: extent.rank) - 1
        last = min(rank + count, self.count(chain))
        parts = []
        while 0 <= at < len(extents) and rank < last:
            end = min(last, extents[at + 1].rank) if at + 1 < len(extents) else last
            parts.append(self._read(extents[at].place + rank - extents[at].rank, end - rank))
            rank, at = end, at + 1
        return b"".join(parts)

    def _read(self, place: int, count: int) -> bytes:
        self._flush()
        self._file.seek(place * SEAL_BYTES)
        return self._file.read(count * SEAL_BYTES)

    def _flush(self) -> None:
        """Put what is fresh behind what was put before."""
        if self._fresh:
            self._file.seek(0, os.SEEK_END)
            self._file.write(self._fresh)
            self._fresh.clear()
