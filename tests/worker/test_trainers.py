"""Groups of people in real sandboxes of their own: the same bits, and nobody else's rows."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kit.ragged import OFFSETS, RaggedStore
from kit.ragged_subset import Subset, descriptors
from tests.worker import engine
from worker.launcher import Sandbox
from worker.task import TrainingTask
from worker.trainers import Data, Trainers
from worker.zygote import Zygote

SIZES = [5, 0, 1, 9, 4, 12, 3, 7]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    warm = Zygote()
    yield warm
    warm.close()


@pytest.mark.parametrize("clients", [[], [1], [0, 3, 5], [7], list(range(len(SIZES)))])
def test_a_subset_holds_its_peoples_rows_and_nobody_elses(
    tmp_path: Path, clients: list[int]
) -> None:
    whole = engine.store(tmp_path / "store", SIZES)
    some = np.array(clients, np.int64)
    with descriptors(Subset(tmp_path / "store", some)) as (manifest, files):
        part = RaggedStore(manifest, files)
        held = sum(os.fstat(files[column.file]).st_size for column in manifest.columns)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(files[OFFSETS], b"x")
        assert fcntl.fcntl(files[OFFSETS], fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    everybody = np.arange(len(SIZES))
    expected = np.where(np.isin(everybody, some), SIZES, 0)
    np.testing.assert_array_equal(part.sizes(everybody), expected)
    rows = np.concatenate([np.zeros(0, np.int64), *(_rows(whole, c) for c in clients)])
    for column in manifest.columns:
        np.testing.assert_array_equal(part.column(column.name), whole.column(column.name)[rows])
    assert held == len(rows) * sum(column.row_bytes for column in manifest.columns)


@pytest.mark.tensorflow
@pytest.mark.parametrize("size", [1, 3])
def test_groups_apart_give_the_same_bits_as_one_sandbox(
    tmp_path: Path, zygote: Zygote, size: int
) -> None:
    engine.store(tmp_path / "store", SIZES)
    opened: list[Data] = []

    def open_trainer(task: TrainingTask, people: Data, public: Path | None) -> Sandbox:
        opened.append(people)
        return Sandbox(task, people, test_store=public, start=zygote)

    task = engine.task(engine.HIDDEN, shards=2, local_epochs=2)
    trainers = Trainers(open_trainer, task, tmp_path / "store", None, lambda kill: None)
    try:
        weights = trainers.initial_weights()
        cohort = np.array([0, 1, 3, 5, 6])
        together = trainers.round(4, cohort, weights, group_clients=None)
        apart = trainers.round(4, cohort, weights, group_clients=size)
    finally:
        trainers.close()
    assert any(part.any() for part in together)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [type(people) for people in opened[:2]] == [type(None), type(tmp_path)]
    assert all(isinstance(people, Subset) and len(people.clients) <= size for people in opened[2:])


def _rows(store: RaggedStore, client: int) -> np.ndarray:
    return np.arange(store.offsets[client], store.offsets[client + 1])
