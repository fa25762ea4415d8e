"""Which rows of a client take part in a round, and in which order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from kit.ragged import ragged_rows
from worker.training.clients import _shuffled, mix


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    cap=st.integers(1, 50),
    seed=st.integers(0, 2**63),
    data=st.data(),
)
def test_rows_of_each_client_are_in_an_order_of_its_own(
    sizes: list[int], cap: int, seed: int, data: st.DataObject
) -> None:
    clients = np.array(sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1)))), np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    seeds = mix(clients.astype(np.uint64), np.uint64(seed))
    rows, starts = _shuffled(offsets, clients, seeds, cap)
    for number, client in enumerate(clients.tolist()):
        mine = rows[starts[number] : starts[number + 1]]
        assert len(mine) == min(sizes[client], cap)
        assert len(set(mine.tolist())) == len(mine)
        assert all(offsets[client] <= row < offsets[client + 1] for row in mine)
    assert starts[-1] == len(rows)
    np.testing.assert_array_equal(rows, by_two_keys(offsets, clients, seeds, cap))


def by_two_keys(
    offsets: npt.NDArray[np.int64],
    clients: npt.NDArray[np.int64],
    seeds: npt.NDArray[np.uint64],
    cap: int,
) -> npt.NDArray[np.int64]:
    """The same order by the hash in full: models trained before had it."""
    rows, starts = ragged_rows(offsets, clients)
    owner = np.repeat(np.arange(len(clients)), np.diff(starts))
    place = np.arange(len(rows)) - starts[owner]
    keys = mix(seeds[owner], 1) ^ mix(place.astype(np.uint64), 2)
    order = np.lexsort((mix(keys, 3), owner))
    return rows[order[place < cap]]


def test_an_order_is_of_its_seed() -> None:
    offsets, client = np.array([0, 30]), np.array([0])
    first, again, other = (
        _shuffled(offsets, client, np.array([seed], np.uint64), 30)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != np.arange(30)).any()
