"""Noise that is drawn while a round is computed is the noise that would be drawn afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.plan import TrainingPlan
from worker import ahead
from worker.aggregate import ServerOptimizer, ServerState, noised_mean, sigma_of
from worker.ahead import NoiseAhead
from worker.noise import BLOCK, NoiseSource
from worker.steps import Stepper
from worker.task import GRID, HALF
from worker.tree import Tree

KEY = bytes(range(32))
SHAPES = [(2, BLOCK - 5), (0,), (7,), (BLOCK + 1,)]
NOISE = 1.25
TREE = TrainingPlan(20, 4, 5, 1.5, sampling="none", clip_norm=0.5, algorithm="dp_ftrl")
ADAPTIVE = TrainingPlan(100, 50, 5, 1.0, clip_norm=None)
PLAIN = TrainingPlan(20, 4, 5, 1.5, clip_norm=0.5)


class Counting(NoiseSource):
    """Counts what was drawn."""

    drawn = 0

    def gaussian(self, count: int, sigma: float) -> Any:
        self.drawn += count
        return super().gaussian(count, sigma)


def noised(source: Any, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    sums = [np.arange(np.prod(shape), dtype=np.int64).reshape(shape) for shape in shapes]
    return noised_mean(sums, clip_norm=1.0, noise_multiplier=NOISE, denominator=3.0, source=source)


@pytest.mark.parametrize("most", [0, 1, BLOCK, 2 * BLOCK, ahead.MOST])
@pytest.mark.parametrize("source", [lambda: NoiseSource(KEY), lambda: Tree(KEY, 16, 1).noise(8)])
def test_no_bit_depends_on_how_much_was_drawn_ahead(
    monkeypatch: pytest.MonkeyPatch, source: Callable[[], Any], most: int
) -> None:
    monkeypatch.setattr(ahead, "MOST", most)
    early = NoiseAhead(source(), sigma_of(NOISE), SHAPES)
    early.draw()
    for one, other in zip(noised(early, SHAPES), noised(source(), SHAPES), strict=True):
        np.testing.assert_array_equal(one, other)


@given(
    shapes=st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), max_size=5),
    most=st.integers(0, 5000),
)
def test_every_model_gets_the_same_bits(shapes: list[tuple[int, ...]], most: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ahead, "MOST", most)
        early = NoiseAhead(NoiseSource(KEY), sigma_of(NOISE), shapes)
        early.draw()
    for one, other in zip(noised(early, shapes), noised(NoiseSource(KEY), shapes), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_large_models_noise_is_not_held_for_a_whole_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "MOST", 3 * BLOCK)
    source = Counting(KEY)
    early = NoiseAhead(source, sigma_of(NOISE), [(10 * BLOCK,)])
    assert source.drawn == 0
    early.draw()
    assert source.drawn == 3 * BLOCK
    noised(early, [(10 * BLOCK,)])
    assert source.drawn == 10 * BLOCK


@pytest.mark.parametrize(
    ("shapes", "noise"), [([(12,), (3,)], NOISE), ([(11,)], NOISE), ([(12,), (2,)], 2 * NOISE)]
)
def test_noise_for_another_sum_is_refused(shapes: list[tuple[int, ...]], noise: float) -> None:
    early = NoiseAhead(NoiseSource(KEY), sigma_of(noise), [(12,), (2,)])
    early.draw()
    with pytest.raises(ValueError, match="the noise was drawn for"):
        noised(early, shapes)


def sums_of(plan: TrainingPlan, cohort: Any, weights: Any) -> list[np.ndarray]:
    """What a cohort could have, with a count where C adapts."""
    sums = [np.full(w.shape, GRID // 9 * len(cohort), np.int64) for w in weights]
    return sums if plan.clip_norm else [*sums, np.array([-HALF * len(cohort)], np.int64)]


def first_model() -> ServerState:
    return ServerState([np.ones((2, 3), np.float32), np.ones(2, np.float32)])


PLANS = pytest.mark.parametrize("plan", [PLAIN, ADAPTIVE, TREE], ids=["plain", "adaptive", "tree"])


@PLANS
def test_a_round_moves_to_the_same_model_whether_or_not_there_was_time(plan: TrainingPlan) -> None:
    def states(*, time: bool) -> list[bytes]:
        def train(number: int, cohort: Any, weights: Any, norm: Any, meanwhile: Any) -> Any:
            if time:
                meanwhile()
            return sums_of(plan, cohort, weights)

        stepper, state, after = Stepper(plan, ServerOptimizer()), first_model(), []
        for number in range(1, 6):
            state = stepper.step(state, number, NoiseSource(KEY), train)
            after.append(state.to_bytes())
        return after

    assert states(time=True) == states(time=False)


@PLANS
def test_noise_is_drawn_while_a_round_is_computed_and_after_what_waited_for_longer(
    plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, seen = list[int](), list[str]()
    real = NoiseSource.gaussian

    def counted(self: NoiseSource, count: int, sigma: float) -> Any:
        drawn.append(count)
        return real(self, count, sigma)

    def train(number: int, cohort: Any, weights: Any, norm: Any, meanwhile: Any) -> Any:
        meanwhile()
        seen.append(f"{sum(drawn)} drawn")
        return sums_of(plan, cohort, weights)

    monkeypatch.setattr(NoiseSource, "gaussian", counted)
    stepper, late = Stepper(plan, ServerOptimizer()), 0 if plan.clip_norm else 1

    def waited() -> None:
        seen.append(f"waited, {sum(drawn)} drawn")

    stepper.step(first_model(), 1, NoiseSource(KEY), train, waited)
    assert seen == ["waited, 0 drawn", "8 drawn"]
    assert sum(drawn) == 8 + late  # the count has noise of its own
