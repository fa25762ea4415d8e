"""The mechanism, audited from outside: influence, noise, cohorts. Every known way to get it wrong
(a mutant) must turn its audit red; the real parts must stay green.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from worker import aggregate
from worker.noise import NoiseSource
from worker.sampling import draw_cohort, fixed_size_cohort
from worker.task import GRID

C, Z, Q_N = 0.7, 1.3, 40.0
CLIENTS, PER_ROUND = 400, 40
KEY = NoiseSource(bytes(range(32)))

Clip = Callable[[list[Any], float], list[Any]]


def influence_is_bounded(clip: Clip) -> bool:
    """No update, however large or twisted, has more than C after clipping."""
    generator = np.random.default_rng(3)
    huge = [generator.normal(size=s).astype(np.float32) * 1e15 for s in ((50, 20), (20,))]
    lopsided = [np.full((50, 20), 1e-3, np.float32), np.full(20, 1e6, np.float32)]
    just = [u * np.float32(C / 1e15 / 31.9) for u in huge]
    for update in (huge, lopsided, just):
        steps = np.concatenate([np.asarray(s, np.float64).ravel() for s in clip(update, C)])
        if np.linalg.norm(steps) > GRID * (1 + 2.0**-18):
            return False
    return True


def noise_is_priced(mean: Callable[..., list[np.ndarray]]) -> bool:
    """Difference of two seeds: variance 2·(zC/qN)² within its χ² bound, and no repetition."""
    sums = [np.full((100, 200), GRID, np.int64), np.zeros(300, np.int64)]
    options = {"clip_norm": C, "noise_multiplier": Z, "denominator": Q_N}
    rounds = [mean(sums, source=KEY.derive(f"round/{n}/noise"), **options) for n in (0, 1)]
    for first, second in zip(*rounds, strict=True):
        difference = (first - second).astype(np.float64)
        variance = 2 * (Z * C / Q_N) ** 2
        if abs(difference.var() / variance - 1) > 5 * math.sqrt(2 / difference.size):
            return False
    return True


def denominator_is_public(mean: Callable[..., list[np.ndarray]]) -> bool:
    """The same sum gives the same mean whoever was drawn."""
    options = {"clip_norm": C, "noise_multiplier": 1e-6, "denominator": Q_N}
    for clients in (1, 80):
        sums = [np.full(1000, clients * GRID // 40, np.int64)]
        expected = clients * C / 40 / Q_N
        given = float(mean(sums, source=KEY.derive("d"), **options)[0].mean())
        if abs(given / expected - 1) > 1e-3:
            return False
    return True


def cohorts_are_binomial(draw: Callable[[NoiseSource], np.ndarray]) -> bool:
    """Sizes have mean Nq and variance Nq(1−q)."""
    rounds, q = 600, PER_ROUND / CLIENTS
    sizes = np.array([len(draw(KEY.derive(f"round/{n}/cohort"))) for n in range(rounds)])
    variance = CLIENTS * q * (1 - q)
    centred = abs(sizes.mean() - PER_ROUND) < 5 * math.sqrt(variance / rounds)
    return bool(centred and abs(sizes.var() / variance - 1) < 5 * math.sqrt(2 / rounds))


def _no_noise(sums: Any, **options: Any) -> list[np.ndarray]:
    scale = options["clip_norm"] / (GRID * options["denominator"])
    return [(s * scale).astype(np.float32) for s in sums]


def _on_the_mean(sums: Any, **options: Any) -> list[np.ndarray]:
    noise = options["noise_multiplier"] / options["denominator"]
    return aggregate.noised_mean(sums, **options | {"noise_multiplier": noise})


def _half(sums: Any, **options: Any) -> list[np.ndarray]:
    halved = options | {"noise_multiplier": options["noise_multiplier"] / 2}
    return aggregate.noised_mean(sums, **halved)


def _same_seed(sums: Any, **options: Any) -> list[np.ndarray]:
    return aggregate.noised_mean(sums, **options | {"source": KEY.derive("always")})


def _of_the_data(sums: Any, **options: Any) -> list[np.ndarray]:
    drawn = max(1.0, float(np.abs(sums[0]).max()) / GRID * 40)
    return aggregate.noised_mean(sums, **options | {"denominator": drawn})


def test_the_real_noise_passes() -> None:
    assert noise_is_priced(aggregate.noised_mean)
    assert denominator_is_public(aggregate.noised_mean)


@pytest.mark.parametrize("mutant", [_no_noise, _on_the_mean, _half, _same_seed])
def test_wrong_noise_is_caught(mutant: Callable[..., list[np.ndarray]]) -> None:
    assert not noise_is_priced(mutant)


def test_a_denominator_that_depends_on_data_is_caught() -> None:
    assert not denominator_is_public(_of_the_data)


def test_real_cohorts_pass_and_a_fixed_size_in_their_place_is_caught() -> None:
    assert cohorts_are_binomial(lambda s: draw_cohort("poisson", CLIENTS, PER_ROUND, s))
    assert not cohorts_are_binomial(lambda s: fixed_size_cohort(CLIENTS, PER_ROUND, s))
    assert not cohorts_are_binomial(lambda s: draw_cohort("poisson", CLIENTS, 44, s))


@pytest.mark.tensorflow
def test_the_real_clip_passes_and_wrong_ones_are_caught() -> None:
    from worker.training.federated import clip_to_grid

    def unclipped(update: list[Any], bound: float) -> list[Any]:
        return [np.asarray(u, np.float64) * GRID / bound for u in update]

    def per_layer(update: list[Any], bound: float) -> list[Any]:
        return [clip_to_grid([u], bound)[0] for u in update]

    assert influence_is_bounded(clip_to_grid)
    assert not influence_is_bounded(unclipped)
    assert not influence_is_bounded(per_layer)


@pytest.mark.tensorflow
def test_clipping_changes_nothing_below_the_bound_and_points_the_same_way_above() -> None:
    from worker.training.federated import clip_to_grid

    generator = np.random.default_rng(4)
    small = [generator.normal(size=100).astype(np.float32) * 0.01]
    kept = np.asarray(clip_to_grid(small, 1.0)[0]) / GRID
    np.testing.assert_allclose(kept, small[0], atol=1.01 / GRID)
    large = [small[0] * 1e6]
    clipped = np.asarray(clip_to_grid(large, 1.0)[0]) / GRID
    unit = small[0] / np.linalg.norm(small[0])
    np.testing.assert_allclose(clipped, unit, atol=1.01 / GRID)
    assert np.linalg.norm(clipped) <= 1.0
