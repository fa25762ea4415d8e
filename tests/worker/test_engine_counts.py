"""The count of clients within C, in the real engine and the real sandbox."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.worker import engine
from worker.launcher import Sandbox
from worker.task import GRID, HALF

pytestmark = pytest.mark.tensorflow

SIZES = [12, 7, 0, 30, 9, 21, 5]
EVERYBODY = np.arange(len(SIZES))
# Between the norms of these clients' updates, so that some are within and some beyond.
C = 0.35


def norms(tmp_path: Path) -> np.ndarray:
    """Norm of each client's raw update, one client at a time, by a slow obvious loop."""
    job = engine.task(engine.LINEAR, clip_norm=1e6)
    store = engine.store(tmp_path / "norms", SIZES)
    weights = engine.engine(job, store)[1]
    each = [engine.naive(job, store, [client], weights, 3) for client in EVERYBODY]
    return np.array([np.linalg.norm(update) for update in each])


def test_each_client_adds_a_half_by_its_norm_and_the_round_has_its_own_norm(
    tmp_path: Path,
) -> None:
    lengths = norms(tmp_path)
    # Who has no records adds nothing.
    present = np.array(SIZES) > 0
    middle = float(np.median(lengths[present]))
    expected = int(np.where(lengths[present] <= middle * 1.001, HALF, -HALF).sum())
    job = engine.task(engine.LINEAR, clip_norm=100.0, count_unclipped=True)
    federated, weights = engine.engine(job, engine.store(tmp_path / "store", SIZES))
    *free, all_within = federated.sum_of(3, EVERYBODY, weights)
    *bound, some_within = federated.sum_of(3, EVERYBODY, weights, clip_norm=middle * 1.001)

    assert all_within.tolist() == [int(present.sum()) * HALF]
    assert some_within.tolist() == [expected]
    assert abs(expected) <= 2 * HALF, "the test needs clients on both sides"
    # Sums are on the grid of the round's own norm.
    real = np.concatenate([s.ravel() for s in bound]) * middle * 1.001 / GRID
    wide = np.concatenate([s.ravel() for s in free]) * 100.0 / GRID
    assert 0 < np.linalg.norm(real) < np.linalg.norm(wide)


def test_one_client_however_large_moves_sum_and_count_by_its_share(tmp_path: Path) -> None:
    """Its features beyond all measure, finite or not: at most C, and one half."""
    for name, value in (("huge", 1e30), ("nan", np.nan)):
        rows = engine.rows(SIZES)
        rows["features"][-SIZES[-1] :] = value
        store = engine.store(tmp_path / name, SIZES, features=rows["features"])
        job = engine.task(engine.LINEAR, clip_norm=C, count_unclipped=True)
        federated, weights = engine.engine(job, store)
        *with_it, count = federated.sum_of(0, EVERYBODY, weights, clip_norm=C)
        *without, fewer = federated.sum_of(0, EVERYBODY[:-1], weights, clip_norm=C)
        moved = np.concatenate([(a - b).ravel() for a, b in zip(with_it, without, strict=True)])
        assert np.linalg.norm(moved) <= GRID
        assert abs(int(count[0] - fewer[0])) == HALF


def test_who_has_no_records_moves_neither_sum_nor_count(tmp_path: Path) -> None:
    """The neighbour without records is the one who does not contribute, not one more within C."""
    job = engine.task(engine.LINEAR, clip_norm=C, count_unclipped=True)
    federated, weights = engine.engine(job, engine.store(tmp_path / "store", SIZES))
    absent = EVERYBODY[np.array(SIZES) > 0]
    for here, gone in zip(
        federated.sum_of(0, EVERYBODY, weights), federated.sum_of(0, absent, weights), strict=True
    ):
        np.testing.assert_array_equal(here, gone)


def test_the_sandbox_gives_the_same_for_one_and_two_threads(tmp_path: Path) -> None:
    engine.store(tmp_path / "people", SIZES)
    answers = []
    for shards in (1, 2):
        job = engine.task(engine.LINEAR, clip_norm=0.1, count_unclipped=True, shards=shards)
        with Sandbox(job, tmp_path / "people") as sandbox:
            weights = sandbox.initial_weights()
            answers.append(sandbox.round(1, EVERYBODY, weights, C))
            answers.append(sandbox.round(1, EVERYBODY[:0], weights, C))
    one, nobody, two, _ = answers
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    assert one[-1].shape == (1,)
    assert [int(abs(part).sum()) for part in nobody] == [0] * len(nobody)
