"""The Merkle tree of RFC 6962: one hash for a whole history, short proofs about it.

Pure arithmetic on hashes, shared by the server that grows the tree and the verifier that does not
believe it. Nothing here may read a clock, a database or a key. Leaves are appended in O(log n) to
a `Frontier`; proofs are made from the hashes of complete subtrees, named by (level, index): node
(k, i) covers the leaves from i·2^k up to, not including, (i+1)·2^k and never changes once complete.

Sources: RFC 6962 §2.1 (hashes, proofs), RFC 9162 §2.1 (verification algorithms).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

Coordinates = tuple[int, int]
Range = tuple[int, int]

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
HASH_BYTES: Final = 32
MAX_SIZE: Final = 1 << 62


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf: SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree: the roots of its complete subtrees, largest first.

    Args:
        size: leaves in the tree.
        peaks: hashes of `cover(0, size)`, in that order.

    Raises:
        ValueError: not as many peaks as the size has bits set.
    """

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks")
        self._size = size
        self._peaks = list(peaks)

    @property
    def size(self) -> int:
        """Leaves in the tree."""
        return self._size

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf hash; answers every node that became complete, as (level, index, hash)."""
        level, index, present = 0, self._size, leaf
        made = [(level, index, present)]
        while index & 1:
            present = node_hash(self._peaks.pop(), present)
            level, index = level + 1, index >> 1
            made.append((level, index, present))
        self._peaks.append(present)
        self._size += 1
        return made

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes where only the root is wanted."""
        peaks, size = self._peaks, self._size
        for present in leaves:
            below = size
            while below & 1:
                present = node_hash(peaks.pop(), present)
                below >>= 1
            peaks.append(present)
            size += 1
        self._size = size

    def extend_data(self, data: bytes) -> None:
        """Add leaves of 32 bytes each, joined, where only the root is wanted."""
        sha256 = hashlib.sha256
        self.extend(
            [
                sha256(b"\x00" + data[at : at + HASH_BYTES]).digest()
                for at in range(0, len(data), HASH_BYTES)
            ]
        )

    def root(self) -> bytes:
        """Root of the tree as it stands."""
        return fold(self._peaks) if self._peaks else EMPTY_ROOT


def fold(peaks: Sequence[bytes]) -> bytes:
    """Root over the hashes of adjacent complete subtrees, largest first; at least one."""
    present = peaks[-1]
    for left in reversed(peaks[:-1]):
        present = node_hash(left, present)
    return present


def cover(begin: int, end: int) -> list[Coordinates]:
    """The complete subtrees that make up the leaves from `begin` to `end`, left to right.

    `begin` must be a multiple of the largest power of two below `end - begin`, as in every range
    a proof speaks of.
    """
    found = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        found.append((level, begin >> level))
        begin += 1 << level
    return found


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges of leaves whose roots prove leaf `index` to be in the tree of `size`.

    Raises:
        ValueError: there is no such leaf in that tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    begin, end, path = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin = middle
    return path[::-1]


def consistency_ranges(first: int, second: int) -> list[Range]:
    """The ranges of leaves whose roots prove the tree of `first` to be a prefix of `second`.

    Raises:
        ValueError: `first` is not between 1 and `second`.
    """
    if not 0 < first <= second:
        raise ValueError(f"a tree of {first} has no proof towards one of {second}")
    begin, end, whole, path = 0, second, True, []
    while first != end:
        middle = begin + _split(end - begin)
        if first <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin, whole = middle, False
    if not whole:
        path.append((begin, end))
    return path[::-1]


def needed(ranges: Iterable[Range]) -> list[Coordinates]:
    """Every node that `proof` will look up for these ranges."""
    return [node for begin, end in ranges for node in cover(begin, end)]


def proof(ranges: Iterable[Range], nodes: Mapping[Coordinates, bytes]) -> list[bytes]:
    """The hashes of a proof.

    Args:
        ranges: from `inclusion_ranges` or `consistency_ranges`.
        nodes: hashes of all that `needed(ranges)` names.

    Raises:
        KeyError: a node is missing.
    """
    return [fold([nodes[node] for node in cover(begin, end)]) for begin, end in ranges]


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a proof of inclusion leads to (RFC 9162 §2.1.3.2).

    Args:
        leaf: hash of the leaf.
        index: its place, from 0.
        size: leaves in the tree.
        path: the proof.

    Returns:
        The root, or None when the path has another length than that place and tree demand.
    """
    if not 0 <= index < size or any(len(part) != HASH_BYTES for part in path):
        return None
    place, last, present = index, size - 1, leaf
    for part in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            present = node_hash(part, present)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            present = node_hash(present, part)
        place, last = place >> 1, last >> 1
    return present if last == 0 else None


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> bool:
    """Whether `leaf` is at `index` of the tree with that size and root."""
    found = root_of_inclusion(leaf, index, size, path)
    return found is not None and hmac.compare_digest(found, root)


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether the tree of `second` only appends to the tree of `first` (RFC 9162 §2.1.4.2).

    A tree is consistent with itself and the empty tree with every tree, by an empty path.
    """
    if first == second or first == 0:
        same = first == 0 or hmac.compare_digest(first_root, second_root)
        return 0 <= first <= second and not path and same
    if not 0 < first < second or not path or any(len(part) != HASH_BYTES for part in path):
        return False
    steps = list(path) if first & (first - 1) else [first_root, *path]
    roots = _roots_of_consistency(first, second, steps)
    return roots is not None and roots == (first_root, second_root)


def _roots_of_consistency(
    first: int, second: int, steps: Sequence[bytes]
) -> tuple[bytes, bytes] | None:
    """Old and new root from one path; None when it has another length than the sizes demand."""
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = steps[0]
    for part in steps[1:]:
        if last == 0:
            return None
        if place & 1 or place == last:
            old, new = node_hash(part, old), node_hash(part, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, part)
        place, last = place >> 1, last >> 1
    return (old, new) if last == 0 else None


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)
