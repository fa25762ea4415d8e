"""A trainer in this process with the sandbox's interface: sums without TensorFlow or a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from privacy_gateway.modelspec import measure
from worker.task import GRID, HALF, TrainingTask
from worker.trainers import Data, nothing


class FakeTrainer:
    """Every client adds a quarter of the clip norm to one coordinate of the first weight.

    `before_round` is called with the round's number before it is computed, `after_round` before it
    is answered; both may raise.
    """

    def __init__(
        self,
        task: TrainingTask,
        before_round: Callable[[int], None],
        after_round: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.task = task
        self.shapes = measure(task.model).weight_shapes
        self.before_round = before_round
        self.after_round = after_round
        self.rounds: list[int] = []
        self.cohorts: list[Any] = []
        self.clip_norms: list[float | None] = []
        self.gave_weights = self.evaluated = False
        self.killed = False

    def initial_weights(self) -> list[Any]:
        """Zeros."""
        self.gave_weights = True
        return [np.zeros(shape, np.float32) for shape in self.shapes]

    def round(
        self,
        round_number: int,
        clients: Any,
        weights: Any,
        clip_norm: float | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> list[Any]:
        """The sum of a cohort, on the grid; for adaptive clipping, everybody is beyond C."""
        self.before_round(round_number)
        self.rounds.append(round_number)
        self.cohorts.append(clients)
        self.clip_norms.append(clip_norm)
        meanwhile()
        sums = self.sums(clients)
        self.after_round(round_number)
        return sums

    def sums(self, clients: Any) -> list[Any]:
        """What is handed back."""
        sums = [np.zeros(shape, np.int64) for shape in self.task.sum_shapes]
        flat = sums[0].reshape(-1)
        np.add.at(flat, clients % flat.size, GRID // 4)
        if self.task.count_unclipped:
            sums.append(np.array([-HALF * len(clients)], np.int64))
        return sums

    def evaluate(self, weights: Any) -> dict[str, float]:
        """A figure."""
        self.evaluated = True
        return {"accuracy": 0.5}

    def kill(self) -> None:
        """Remember it."""
        self.killed = True


class Stable:
    """Makes trainers and remembers them, and which data each was given.

    `before_opening` is called before one is given people's data, and may raise.
    """

    def __init__(
        self,
        before_round: Callable[[int], None] = lambda _: None,
        before_opening: Callable[[], None] = lambda: None,
        after_round: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.before_round = before_round
        self.before_opening = before_opening
        self.after_round = after_round
        self.made: list[FakeTrainer] = []
        self.stores: list[Data] = []
        self.tests: list[Path | None] = []

    @contextmanager
    def __call__(
        self, task: TrainingTask, store: Data, test_store: Path | None
    ) -> Iterator[FakeTrainer]:
        """Open one, as the coordinator does."""
        if store is not None:
            self.before_opening()
        trainer = FakeTrainer(task, self.before_round, self.after_round)
        self.made.append(trainer)
        self.stores.append(store)
        self.tests.append(test_store)
        yield trainer

    @property
    def openings(self) -> int:
        """How often people's data was opened."""
        return sum(store is not None for store in self.stores)

    @property
    def rounds(self) -> list[int]:
        """Rounds computed, in order, over all trainers."""
        return [number for trainer in self.made for number in trainer.rounds]
