"""A cohort's rows as flat slices: all clients' examples side by side, with offsets.

Nothing is padded, and a slice is bounded in bytes and clients, so a cohort of any size runs in the
same memory. The order of a client's examples, and which of them count when it has more than the
public cap, follow from (seed, round, client) alone: the same for any number of threads, for a
resumed job, and whoever else is in the cohort. These seeds hide nothing and need not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kit.ragged import RaggedStore, ragged_rows

# int32 accumulators hold 2²⁰ steps for each of at most 1024 clients.
MAX_CLIENTS = 1024
SLICE_BYTES = 16 << 20

Indices: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Slice:
    """Some clients' data, ready for the engine.

    Attributes:
        features, labels: rows of all clients, concatenated.
        offsets: int32 (clients + 1), where each client begins.
        seeds: int32 (clients,), for dropout.
    """

    features: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    offsets: npt.NDArray[np.int32]
    seeds: npt.NDArray[np.int32]


def slices(
    store: RaggedStore,
    cohort: Indices,
    *,
    columns: tuple[str, str],
    cap: int,
    seed: int,
    round_number: int,
) -> Iterator[Slice]:
    """Cut a cohort into slices of bounded memory.

    Args:
        store: where the rows are.
        cohort: positions of the clients, int64.
        columns: names of features and label.
        cap: most examples of one client that take part.
        seed: public seed of the job.
        round_number: number of the round.

    Yields:
        Slices whose clients, one after the other, are the cohort.
    """
    features, labels = (store.column(name) for name in columns)
    row_bytes = sum(store.manifest.column(name).row_bytes for name in columns)
    for part in _parts(np.minimum(store.sizes(cohort), cap), row_bytes):
        clients = cohort[part]
        seeds = mix(clients.astype(np.uint64), np.uint64(seed) << np.uint64(32), round_number)
        rows, starts = _shuffled(store.offsets, clients, seeds, cap)
        yield Slice(
            features[rows],
            labels[rows],
            starts.astype(np.int32),
            (seeds >> np.uint64(33)).astype(np.int32),
        )


def mix(values: Words, *words: np.uint64 | int) -> Words:
    """A 64-bit hash of each value with some words (finaliser of SplitMix64)."""
    mixed = values
    with np.errstate(over="ignore"):
        for word in words:
            mixed = (mixed ^ np.uint64(word)) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def _parts(sizes: Indices, row_bytes: int) -> Iterator[slice]:
    """Runs of clients within SLICE_BYTES and MAX_CLIENTS; one client is never cut."""
    start = held = 0
    for index, size in enumerate(sizes.tolist()):
        wanted = size * row_bytes
        if index > start and (held + wanted > SLICE_BYTES or index - start >= MAX_CLIENTS):
            yield slice(start, index)
            start, held = index, 0
        held += wanted
    if start < len(sizes):
        yield slice(start, len(sizes))


def _shuffled(
    offsets: Indices, clients: Indices, seeds: Words, cap: int
) -> tuple[Indices, Indices]:
    """Row numbers, each client's in its own random order, at most `cap` of them."""
    rows, starts = ragged_rows(offsets, clients)
    sizes = np.diff(starts)
    owner = np.repeat(np.arange(len(clients)), sizes)
    place = np.arange(len(rows)) - starts[owner]
    keys = mix(seeds[owner], 1) ^ mix(place.astype(np.uint64), 2)
    # One number to sort by, whose row it is and then as much of the hash as there is room for:
    # several times as fast as two keys. Two rows of a client are as good as never equal in 50 bits.
    room = np.uint64(max(1, len(clients).bit_length()))
    owners = owner.astype(np.uint64) << (np.uint64(64) - room)
    order = np.argsort(owners | (mix(keys, 3) >> room))
    kept = order[place < cap]
    ends = np.cumsum(np.minimum(sizes, cap))
    return rows[kept], np.concatenate([np.zeros(1, np.int64), ends])
