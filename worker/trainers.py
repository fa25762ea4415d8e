"""The sandboxes of one job: which of them may see what.

What leaves a sandbox without noise must come from one that never saw a person: the first weights
are made where there is no data at all, the metrics where there is the public test set alone. Rounds
are trained in a sandbox with the client store, or, where the owner obliges to
`per_client_group`, in one sandbox for each group of people that holds their rows and no others',
so that not even native code running inside TensorFlow could mix groups. Sums are integers and add
up to the same bits either way. Nothing here may start a sandbox with people's data for a round
nobody paid for: whoever calls `begin` or `round` has charged it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kit.ragged_subset import Subset
from worker.aggregate import Weights
from worker.task import TrainingTask

Sums = Sequence[npt.NDArray[np.int64]]


def nothing() -> None:
    """What there is to do while a round is computed, for those who only wait."""


class Trainer(Protocol):
    """What the coordinator needs of a sandbox; `worker.launcher.Sandbox` is the real one."""

    def initial_weights(self) -> Weights:
        """First weights, float32."""
        ...

    def round(
        self,
        round_number: int,
        clients: npt.NDArray[np.int64],
        weights: Weights,
        clip_norm: float | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> Sequence[npt.NDArray[np.int64]]:
        """Raw clipped int64 sum of a cohort on the grid C/2²⁰; C as given where it adapts.

        `meanwhile` is called once while the round is computed; if it raises, so does this, and the
        round is lost with its sandbox.
        """
        ...

    def evaluate(self, weights: Weights) -> dict[str, float]:
        """Metrics on the public test set; empty without one."""
        ...

    def kill(self) -> None:
        """End the child now; safe from any thread."""
        ...


# The limit of a sandbox's processor time is set when it begins, so one that is kept from round to
# round is opened anew after this long; else every long job would meet it in a round that is paid.
KEPT_SECONDS = 3600.0

Data = Path | Subset | None
OpenTrainer = Callable[[TrainingTask, Data, Path | None], AbstractContextManager[Trainer]]


@dataclass
class Trainers:
    """Opens sandboxes as they are needed; close it in the end.

    Attributes:
        open_trainer: starts one, given people's data (a store, some clients of it, or None) and
            the public test set.
        task: the job.
        store: the client store.
        test_store: the public test set.
        guard: told how to kill whatever was opened last.
    """

    open_trainer: OpenTrainer
    task: TrainingTask
    store: Path
    test_store: Path | None
    guard: Callable[[Callable[[], None]], None]
    _kept: ExitStack = field(default_factory=ExitStack)
    _training: Trainer | None = None
    _opened: float = 0.0

    def begin(self) -> None:
        """Open the sandbox of rounds that are paid for, which prepares itself by the time."""
        self._whole()

    def initial_weights(self) -> Weights:
        """First weights, from a sandbox without any data."""
        with ExitStack() as stack:
            return self._open(stack, None, None).initial_weights()

    def evaluate(self, weights: Weights) -> dict[str, float]:
        """Metrics on the public test set, from a sandbox without people; empty without one."""
        if self.test_store is None:
            return {}
        with ExitStack() as stack:
            return self._open(stack, None, self.test_store).evaluate(weights)

    def round(
        self,
        round_number: int,
        cohort: npt.NDArray[np.int64],
        weights: Weights,
        clip_norm: float | None = None,
        meanwhile: Callable[[], None] = nothing,
        *,
        group_clients: int | None,
    ) -> Sums:
        """Raw sum of a cohort that is paid for.

        Args:
            round_number: of the round.
            cohort: positions of the clients, int64, rising.
            weights: the current model.
            clip_norm: C of this round where it adapts.
            meanwhile: called once, while the cohort or its first group trains.
            group_clients: most people one sandbox may see; None for all of them in one.
        """
        if group_clients is None:
            return self._whole().round(round_number, cohort, weights, clip_norm, meanwhile)
        self.close()
        groups = np.array_split(cohort, max(1, -(-len(cohort) // group_clients)))
        total: list[npt.NDArray[np.int64]] = []
        for group in groups:
            with ExitStack() as stack:
                trainer = self._open(stack, Subset(self.store, group), None)
                part = trainer.round(round_number, group, weights, clip_norm, meanwhile)
            meanwhile = nothing
            total = [a + b for a, b in zip(total, part, strict=True)] if total else list(part)
        return total

    def close(self) -> None:
        """Close the sandbox that is kept from round to round."""
        self._training = None
        self._kept.close()

    def _whole(self) -> Trainer:
        if self._training is not None and time.monotonic() - self._opened > KEPT_SECONDS:
            self.close()
        if self._training is None:
            self._opened = time.monotonic()
            self._training = self._enter(self._kept, self.store, None)
        # Another may have been opened since.
        self.guard(self._training.kill)
        return self._training

    def _open(self, stack: ExitStack, people: Data, public: Path | None) -> Trainer:
        trainer = self._enter(stack, people, public)
        self.guard(trainer.kill)
        return trainer

    def _enter(self, stack: ExitStack, people: Data, public: Path | None) -> Trainer:
        return stack.enter_context(self.open_trainer(self.task, people, public))
