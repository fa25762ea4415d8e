"""Charged evaluations, judged as updates are: what one person moves, and the noise on it.

The noised totals behind the figures are never shown; the audit reads them where they become those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from jobs import admission
from privacy_gateway import schemas
from privacy_gateway.schemas import JobRequest
from tests.audit.bench import PER_ROUND, Bench, Keys, World, body, nobody, people
from tests.audit.mechanism import SLACK, is_gaussian
from tests.support import market as markets
from tests.support.market import RESEARCHER
from worker import estimate
from worker.aggregate import noised_mean
from worker.noise import NoiseSource
from worker.sampling import draw_cohort
from worker.task import GRID
from worker.zygote import Zygote

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

CLIP, NOISE, SEEDS = 0.7, 4.0, 24
MODEL = {"input": {"shape": [16]}, "layers": [{"type": "Dense", "units": 3}]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    zygote = Zygote()
    with markets.engine(processes=1) as engine:
        yield Bench(engine, tmp_path_factory.mktemp("evaluation"), zygote)
    zygote.close()


def totals(bench: Bench, world: World, keys: Sequence[NoiseSource]) -> list[np.ndarray]:
    """A model is trained, and measured once under each key: noised sums of totals."""
    seen: list[np.ndarray] = []

    def spy(names: Sequence[str], noised: np.ndarray, sigma: float) -> dict[str, float]:
        seen.append(noised * PER_ROUND)
        return REAL(names, noised, sigma)

    model = {"model": {"architecture": MODEL}}
    evaluation = {
        "kind": "evaluate",
        "outputs": ["dp_metrics", "receipt"],
        "noise_multiplier": NOISE,
        "algorithm": {"name": "dp_fedavg", "clip_norm": CLIP},
    }
    with bench.market(world) as market, mock.patch.object(estimate, "estimates", spy):

        def submit(**changes: Any) -> str:
            request = schemas.parse(JobRequest, body(market, **model | changes))
            return admission.submit(market.services, RESEARCHER, request, None).job.id

        # The same model in every world, remembered from the first: its own is not the question.
        first = submit(noise_multiplier=NOISE)
        assert bench.work(market, replace(world, name="any"), first, Keys()).completed
        for each in keys:
            job_id = submit(**evaluation, initial={"job": first})
            assert bench.work(market, world, job_id, each).completed
    return seen


REAL = estimate.estimates


def influence(bench: Bench) -> bool:
    """One person who is drawn, ordinary or not, moves the totals by at most C."""
    world = people()
    someone = int(draw_cohort("poisson", 200, PER_ROUND, Keys().derive("round/1/cohort"))[0])
    (without,) = totals(bench, world.without(someone), [Keys()])
    moved = []
    for other in (world, world.changed(someone, "huge", lambda x: x * 1e30)):
        (there,) = totals(bench, other, [Keys()])
        moved.append(float(np.linalg.norm(there - without)))
    return 0.5 * CLIP < max(moved) <= CLIP * (1 + SLACK) + 1e-5


def noise(bench: Bench) -> bool:
    """Nobody has a record: what is told is noise of standard deviation zC, fresh each time."""
    told = totals(bench, nobody(), [Keys(noise=seed) for seed in range(SEEDS)])
    fresh = len(np.unique(told, axis=0)) == SEEDS
    return fresh and is_gaussian(np.concatenate(told), NOISE * CLIP)


def denominator(bench: Bench) -> bool:
    """Whoever is drawn: equal noise, equal bytes."""
    first, second = totals(bench, nobody(), [Keys(cohort=1), Keys(cohort=2)])
    return np.array_equal(first, second)


def test_the_real_worker_keeps_every_promise(bench: Bench) -> None:
    assert influence(bench)
    assert noise(bench)
    assert denominator(bench)


def _no_noise(sums: Any, **options: Any) -> Any:
    scale = options["clip_norm"] / (GRID * options["denominator"])
    return [(array * scale).astype(np.float32) for array in sums]


def _half_the_noise(sums: Any, **options: Any) -> Any:
    return noised_mean(sums, **options | {"noise_multiplier": options["noise_multiplier"] / 2})


def _noise_on_the_mean(sums: Any, **options: Any) -> Any:
    less = options["noise_multiplier"] / options["denominator"]
    return noised_mean(sums, **options | {"noise_multiplier": less})


def _one_seed_for_ever(sums: Any, **options: Any) -> Any:
    return noised_mean(sums, **options | {"source": NoiseSource(bytes(32))})


def _twice_the_sum(sums: Any, **options: Any) -> Any:
    return noised_mean([2 * array for array in sums], **options)


def _a_denominator_of_the_data(sums: Any, **options: Any) -> Any:
    more = np.abs(sums[0]).sum() / GRID
    return noised_mean(sums, **options | {"denominator": options["denominator"] / (1 + more)})


MUTANTS: dict[Callable[..., Any], Callable[[Bench], bool]] = {
    _no_noise: noise,
    _half_the_noise: noise,
    _noise_on_the_mean: noise,
    _one_seed_for_ever: noise,
    _twice_the_sum: influence,
    _a_denominator_of_the_data: influence,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_mutant_of_the_evaluation_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(estimate, "noised_mean", mutant)
    assert not MUTANTS[mutant](bench)
