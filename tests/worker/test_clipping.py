"""The clip norm that adapts: its rule, its noise, its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accounting.plan import MAX_CLIP_NORM, MIN_CLIP_NORM, TrainingPlan
from worker.aggregate import AggregateInvalid, check_count
from worker.clipping import AdaptiveClipping
from worker.noise import Integers, NoiseSource
from worker.task import GRID, HALF

KEY = NoiseSource(bytes(range(32)))
PLAN = TrainingPlan(1000, 100, 10, 1.0, clip_norm=None)


def clipping(count_noise: float = 5.0) -> AdaptiveClipping:
    return AdaptiveClipping(0.5, 0.2, count_noise, 100.0)


def halves(within: int, beyond: int) -> np.ndarray:
    return np.array([HALF * (within - beyond)], np.int64)


class Quiet:
    """No noise, to see the rule; also records the scale that was asked for."""

    sigma = 0.0

    def gaussian(self, count: int, sigma: float) -> Integers:
        self.sigma = sigma
        return np.zeros(count, np.int64)


@pytest.mark.parametrize(("within", "beyond"), [(0, 0), (100, 0), (0, 100), (60, 40), (3, 1)])
def test_the_norm_moves_geometrically_by_the_share_within(within: int, beyond: int) -> None:
    # The share counts everybody expected who was not drawn as one half: N q is the denominator.
    share = 0.5 + (within - beyond) / 2 / 100
    moved = clipping().next_norm(0.7, halves(within, beyond), Quiet())
    assert moved == pytest.approx(0.7 * math.exp(-0.2 * (share - 0.5)), rel=1e-12)


def test_the_noise_is_what_was_priced() -> None:
    quiet = Quiet()
    priced = PLAN.engine_parameters()["clip_count_noise"]
    assert priced == 5.0
    clipping(priced).next_norm(1.0, halves(1, 1), quiet)
    assert quiet.sigma == 5.0 * GRID

    norms = [clipping().next_norm(1.0, halves(0, 0), KEY.derive(str(k))) for k in range(4000)]
    shares = np.log(norms) / -0.2 * 100
    assert abs(shares.std() / 5.0 - 1) < 5 / math.sqrt(2 * len(norms))
    assert abs(shares.mean()) < 5 * 5.0 / math.sqrt(len(norms))


def test_one_client_is_worth_at_most_one_half_and_the_joint_price_counts_on_it() -> None:
    """z⁻² = z_update⁻² + (½ / σ_b)²: what is added to the two sums by one client, together."""
    parameters = PLAN.engine_parameters()
    update, count = parameters["noise_multiplier"], parameters["clip_count_noise"]
    assert isinstance(update, float)
    assert isinstance(count, float)
    influence = HALF / GRID
    assert update**-2 + (influence / count) ** 2 == pytest.approx(PLAN.noise_multiplier**-2)


def test_noise_of_any_size_leaves_a_norm_within_the_limits() -> None:
    norms = [
        clipping(1e7).next_norm(norm, halves(0, 0), KEY.derive(f"{k}/{norm}"))
        for k in range(20)
        for norm in (MIN_CLIP_NORM, 1.0, MAX_CLIP_NORM)
    ]
    assert all(MIN_CLIP_NORM <= norm <= MAX_CLIP_NORM for norm in norms)
    assert len(set(norms)) > 3


@pytest.mark.parametrize(
    "count",
    [
        np.array([4 * HALF], np.int64),
        np.array([-4 * HALF], np.int64),
        np.array([0.0]),
        np.array(0, np.int64),
        np.zeros(2, np.int64),
    ],
)
def test_a_count_no_cohort_can_have_is_refused(count: np.ndarray) -> None:
    check_count(halves(3, 0), 3)
    with pytest.raises(AggregateInvalid):
        check_count(count, 3)
