"""Rounds by their plan: what passes from one to the next, and that a stored state goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from accounting.plan import TrainingPlan
from worker.aggregate import AggregateInvalid, ServerOptimizer, ServerState
from worker.noise import NoiseSource
from worker.steps import Stepper
from worker.task import GRID, HALF

KEY = bytes(range(32))
SHAPES = [(3, 2), (2,)]
TREE = TrainingPlan(20, 4, 12, 1.5, sampling="none", clip_norm=0.5, algorithm="dp_ftrl")
ADAPTIVE = TrainingPlan(100, 50, 8, 1.0, clip_norm=None)
PLAIN = TrainingPlan(20, 4, 6, 1.5, clip_norm=0.5)
FIXED = TrainingPlan(20, 4, 6, 1.5, clip_norm=0.5, sampling="fixed_size")


class Trainer:
    """Sums that depend on cohort and weights; remembers what it was asked."""

    def __init__(self, *, counting: bool) -> None:
        self.counting = counting
        self.cohorts: list[list[int]] = []
        self.norms: list[float | None] = []

    def __call__(
        self, number: int, cohort: Any, weights: Any, norm: float | None, meanwhile: Any
    ) -> Any:
        self.cohorts.append(cohort.tolist())
        self.norms.append(norm)
        each = GRID // 8 + int(cohort.sum()) % 97
        sums = [np.full(shape, each * len(cohort) // 8, np.int64) for shape in SHAPES]
        return [*sums, np.array([-HALF * len(cohort)], np.int64)] if self.counting else sums


def start() -> ServerState:
    return ServerState([np.ones(shape, np.float32) for shape in SHAPES])


def rounds(
    plan: TrainingPlan,
    state: ServerState,
    numbers: Iterable[int],
    trainer: Trainer,
    *,
    optimizer: str = "sgd",
    key: bytes | None = KEY,
) -> ServerState:
    stepper = Stepper(plan, ServerOptimizer(optimizer))  # type: ignore[arg-type]
    for number in numbers:
        state = stepper.step(state, number, NoiseSource(key), trainer)
    return state


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adagrad", "yogi"])
@pytest.mark.parametrize("plan", [TREE, ADAPTIVE, PLAIN, FIXED])
def test_going_on_from_a_stored_state_is_bit_identical(plan: TrainingPlan, optimizer: str) -> None:
    counting = plan.clip_norm is None
    through, halting = Trainer(counting=counting), Trainer(counting=counting)
    whole = rounds(plan, start(), range(1, 7), through, optimizer=optimizer)
    half = rounds(plan, start(), range(1, 4), halting, optimizer=optimizer)
    stored = ServerState.from_bytes(half.to_bytes(), SHAPES)
    resumed = rounds(plan, stored, range(4, 7), halting, optimizer=optimizer)

    assert through.cohorts == halting.cohorts
    assert through.norms == halting.norms
    assert whole.to_bytes() == resumed.to_bytes()
    assert whole.remembers == (plan in (TREE, ADAPTIVE) or optimizer != "sgd")


def test_a_tree_goes_on_with_its_noise_though_entropy_is_new() -> None:
    """Without an injected key: the noise of earlier nodes is taken off exactly once replaced."""
    trainer = Trainer(counting=False)
    state = rounds(TREE, start(), range(1, 4), trainer, key=None)
    first = rounds(TREE, state, [4], trainer, key=None)
    again = rounds(TREE, ServerState.from_bytes(state.to_bytes(), SHAPES), [4], trainer, key=None)
    assert first.to_bytes() == again.to_bytes()
    assert trainer.cohorts[3] == trainer.cohorts[4]


def test_after_four_rounds_one_node_is_left() -> None:
    """Prefix 4 is one node: 12 rounds of plain noise would have four times its variance."""
    plan = TrainingPlan(64, 4, 16, 1.0, sampling="none", clip_norm=1.0, algorithm="dp_ftrl")
    shape = (100, 100)

    def quiet(number: int, cohort: Any, weights: Any, norm: float | None, _meanwhile: Any) -> Any:
        return [np.zeros(shape, np.int64)]

    stepper, state = Stepper(plan, ServerOptimizer()), ServerState([np.zeros(shape, np.float32)])
    spread = []
    for number in range(1, 9):
        state = stepper.step(state, number, NoiseSource(KEY), quiet)
        spread.append(float(state.weights[0].std()) * 4)
    # Standard deviation z·C/m of each node; popcount(t) nodes make a prefix.
    expected = [t.bit_count() ** 0.5 for t in range(1, 9)]
    np.testing.assert_allclose(spread, expected, rtol=0.04)


def test_a_new_pass_has_a_new_key_and_the_last_one_is_forgotten() -> None:
    stepper, trainer = Stepper(TREE, ServerOptimizer()), Trainer(counting=False)
    state, keys = start(), []
    for number in range(1, 13):
        state = stepper.step(state, number, NoiseSource(), trainer)
        keys.append(state.noise_key)
        assert "noise_key" not in repr(state)
    # Passes of five rounds: 1–5, 6–10, 11–12.
    assert [key is None for key in keys] == [n in (5, 10, 12) for n in range(1, 13)]
    assert len({key for key in keys if key is not None}) == 3
    for first in (0, 5):
        clients = [client for cohort in trainer.cohorts[first : first + 5] for client in cohort]
        assert sorted(clients) == list(range(20))


def test_a_pass_that_lost_its_key_does_not_go_on() -> None:
    trainer = Trainer(counting=False)
    state = rounds(TREE, start(), [1], trainer)
    lost = ServerState(state.weights, state.step, state.slots)
    with pytest.raises(ValueError, match="key of the tree"):
        rounds(TREE, lost, [2], trainer)
    assert len(trainer.cohorts) == 1


def test_the_norm_of_each_round_follows_from_the_one_before() -> None:
    trainer = Trainer(counting=True)
    state = rounds(ADAPTIVE, start(), range(1, 9), trainer)
    assert trainer.norms[0] == 0.1
    # Everybody is beyond C in every round, so C rises.
    assert trainer.norms == sorted(trainer.norms, key=float)
    assert state.clip_norm is not None
    assert state.clip_norm > trainer.norms[-1] > 0.1


def test_an_answer_without_its_count_is_refused() -> None:
    with pytest.raises(AggregateInvalid):
        rounds(ADAPTIVE, start(), [1], Trainer(counting=False))
    with pytest.raises(AggregateInvalid):
        rounds(PLAIN, start(), [1], Trainer(counting=True))
