"""Groups of people in real sandboxes of their own: the same bits, and nobody else's rows."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jobs.settings import Settings
from kit.ragged import OFFSETS, RaggedStore
from kit.ragged_subset import Subset, descriptors
from tests.support.trainer import Stable
from tests.worker import engine
from worker import app, trainers
from worker.launcher import Sandbox
from worker.start import Execute
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
    waits: list[int] = []

    def open_trainer(task: TrainingTask, people: Data, public: Path | None) -> Sandbox:
        opened.append(people)
        return Sandbox(task, people, test_store=public, start=zygote)

    task = engine.task(engine.HIDDEN, shards=2, local_epochs=2)
    kept = Trainers(open_trainer, task, tmp_path / "store", None, lambda kill: None)
    try:
        weights = kept.initial_weights()
        cohort = np.array([0, 1, 3, 5, 6])
        together = kept.round(4, cohort, weights, group_clients=None)
        apart = kept.round(4, cohort, weights, None, partial(waits.append, 4), group_clients=size)
    finally:
        kept.close()
    assert waits == [4]
    assert any(part.any() for part in together)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [type(people) for people in opened[:2]] == [type(None), type(tmp_path)]
    assert all(isinstance(people, Subset) and len(people.clients) <= size for people in opened[2:])


def test_no_sandbox_is_kept_until_it_meets_its_limit_of_processor_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would die in a round that is paid for, and the job be charged for a failed attempt."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    settings = Settings(state_dir=tmp_path, round_deadline_seconds=600)
    begin = Execute(insecure=True)
    made = app.tools_of(settings, begin).open_trainer(engine.task(), None, None)
    assert isinstance(made, Sandbox)

    stable, now = Stable(), [0.0]
    monkeypatch.setattr(trainers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    kept = Trainers(stable, engine.task(), tmp_path / "store", None, lambda kill: None)
    weights = kept.initial_weights()
    longest, began = 0.0, dict[int, float]()
    for number in range(50):  # each just within its deadline
        kept.round(number, np.arange(3), weights, group_clients=None)
        began.setdefault(stable.openings, now[0])
        now[0] += 599.0
        longest = max(longest, now[0] - began[stable.openings])
    assert stable.openings > 1
    assert 64 * longest < made._limits.cpu_seconds


def _rows(store: RaggedStore, client: int) -> np.ndarray:
    return np.arange(store.offsets[client], store.offsets[client + 1])
