"""The mechanism of every algorithm on the real worker, and every known way to get it wrong.

A mutant is the real worker with one thing changed; the audit must name what the change breaks.
Sandboxes of two mutants run changed sources, the others a changed coordinator.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kit
import privacy_gateway
import worker as worker_room
from accounting.mechanism import update_noise
from accounting.plan import CLIP_COUNT_NOISE_PER_CLIENT, INITIAL_CLIP_NORM
from jobs import runnable
from policies.embedded import EmbeddedEngine
from tests.audit import mechanism
from tests.audit.bench import PEOPLE, PER_ROUND, Bench
from tests.audit.mechanism import CHECKS, Case, Finding
from tests.support import market as markets
from worker import aggregate, clipping, start, steps
from worker.noise import NoiseSource
from worker.sampling import draw_cohort, fixed_size_cohort
from worker.task import GRID
from worker.zygote import Zygote

pytestmark = pytest.mark.tensorflow

FEDAVG = Case("dp_fedavg", {"name": "dp_fedavg"}, counted=True)
CASES = [
    FEDAVG,
    Case("dp_fedsgd", {"name": "dp_fedsgd"}),
    Case("dp_fedprox", {"name": "dp_fedprox", "proximal_mu": 0.5}),
    Case(
        "dp_ftrl",
        {"name": "dp_ftrl"},
        {"sampling": "none", "noise_multiplier": 4.0},
        noise=4.0,
        tree=True,
    ),
    Case(
        "fixed_size",
        {"name": "dp_fedavg"},
        {"sampling": "fixed_size"},
        sampled=False,  # the size, at least
    ),
    Case(
        "unsampled",
        {"name": "dp_fedavg"},
        {"sampling": "none", "clients_per_round": PEOPLE},
        sampled=False,
    ),
]
ADAPTIVE = Case(
    "adaptive",
    {"name": "dp_fedavg", "clip_norm": "adaptive"},
    noise=update_noise(mechanism.NOISE, CLIP_COUNT_NOISE_PER_CLIENT * PER_ROUND),
    clip=INITIAL_CLIP_NORM,
    count_noise=CLIP_COUNT_NOISE_PER_CLIENT * PER_ROUND,
)
CASES.append(ADAPTIVE)

# Ordinary people stay below C, so a clip that is missing shows in the unusual one alone, and the
# coordinator's own bound on the whole sum does not speak first.
SLOW = Case(
    "slow", {"name": "dp_fedavg", "client_optimizer": {"name": "sgd", "learning_rate": 0.01}}
)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture(scope="module")
def bench(
    engine: EmbeddedEngine, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    return Bench(engine, tmp_path_factory.mktemp("audit"), zygote)


def test_every_algorithm_that_is_admitted_is_audited() -> None:
    assert {case.algorithm["name"] for case in CASES} == set(runnable.ALGORITHMS)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_real_worker_keeps_every_promise(bench: Bench, case: Case) -> None:
    assert mechanism.findings(bench, case) == set()


def _no_noise(sums: Any, **options: Any) -> Any:
    scale = options["clip_norm"] / (GRID * options["denominator"])
    return [(array * scale).astype(np.float32) for array in sums]


def _noise_on_the_mean(sums: Any, **options: Any) -> Any:
    less = options["noise_multiplier"] / options["denominator"]
    return _REAL_MEAN(sums, **_other_noise(options, less))


def _half_the_noise(sums: Any, **options: Any) -> Any:
    return _REAL_MEAN(sums, **_other_noise(options, options["noise_multiplier"] / 2))


def _other_noise(options: dict[str, Any], noise_multiplier: float) -> dict[str, Any]:
    """What the round's own stream gives next: of what was drawn ahead nothing is used."""
    return options | {"noise_multiplier": noise_multiplier, "source": options["source"].source}


def _the_same_seed_each_round(sums: Any, **options: Any) -> Any:
    always = options["source"].source._key if not _SEEDS else _SEEDS[0]
    _SEEDS.append(always)
    return _REAL_MEAN(sums, **options | {"source": NoiseSource(always)})


def _one_seed_for_ever(sums: Any, **options: Any) -> Any:
    return _REAL_MEAN(sums, **options | {"source": NoiseSource(bytes(32))})


def _a_denominator_of_the_data(sums: Any, **options: Any) -> Any:
    """Divide by how much there is to divide: the sum's own norm in units of C."""
    norm = np.sqrt(sum(float(np.square(array.astype(np.float64)).sum()) for array in sums)) / GRID
    return _REAL_MEAN(sums, **options | {"denominator": options["denominator"] + norm})


def _a_denominator_of_the_cohort(state: Any, sums: Any, **options: Any) -> Any:
    return _REAL_ROUND(state, sums, **options | {"denominator": max(1, options["clients"])})


def _a_fixed_size(_sampling: str, clients: int, per_round: int, source: NoiseSource) -> Any:
    return fixed_size_cohort(clients, per_round, source)


def _a_larger_rate(sampling: str, clients: int, per_round: int, source: NoiseSource) -> Any:
    return draw_cohort(sampling, clients, per_round + 4, source)  # type: ignore[arg-type]


def _always_the_same_people(
    sampling: str, clients: int, per_round: int, _source: NoiseSource
) -> Any:
    return draw_cohort(sampling, clients, per_round, NoiseSource(bytes(32)))  # type: ignore[arg-type]


_REAL_MEAN, _REAL_ROUND = aggregate.noised_mean, aggregate.run_round
_SEEDS: list[bytes] = []


def _a_count_without_noise(self: Any, norm: float, count: Any, _source: Any) -> float:
    return _REAL_NORM(self, norm, count, _Silence())


def _a_count_of_whole_people(self: Any, norm: float, count: Any, source: Any) -> float:
    return _REAL_NORM(self, norm, 2 * count, source)


def _the_joint_noise_on_the_update(sums: Any, **options: Any) -> Any:
    return _REAL_MEAN(sums, **_other_noise(options, mechanism.NOISE))


class _Silence:
    def gaussian(self, size: int, _sigma: float) -> Any:
        return np.zeros(size, np.int64)


_REAL_NORM = clipping.AdaptiveClipping.next_norm
JOINT: dict[Callable[..., Any], tuple[Any, str, Finding]] = {
    _a_count_without_noise: (clipping.AdaptiveClipping, "next_norm", "count"),
    _a_count_of_whole_people: (clipping.AdaptiveClipping, "next_norm", "count"),
    _the_joint_noise_on_the_update: (aggregate, "noised_mean", "noise"),
}
TRUSTED: dict[Callable[..., Any], tuple[Any, str, Finding]] = {
    _no_noise: (aggregate, "noised_mean", "noise"),
    _noise_on_the_mean: (aggregate, "noised_mean", "noise"),
    _half_the_noise: (aggregate, "noised_mean", "noise"),
    _one_seed_for_ever: (aggregate, "noised_mean", "noise"),
    _the_same_seed_each_round: (aggregate, "noised_mean", "repeated"),
    _a_denominator_of_the_data: (aggregate, "noised_mean", "influence"),
    _a_denominator_of_the_cohort: (steps, "run_round", "denominator"),
    _a_fixed_size: (steps, "draw_cohort", "cohorts"),
    _a_larger_rate: (steps, "draw_cohort", "cohorts"),
    _always_the_same_people: (steps, "draw_cohort", "cohorts"),
}


@pytest.mark.parametrize("mutant", TRUSTED, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_mutant_of_the_coordinator_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Any]
) -> None:
    module, name, finding = TRUSTED[mutant]
    assert CHECKS[finding](bench, FEDAVG), "the worker without the change passes"
    _SEEDS.clear()
    monkeypatch.setattr(module, name, mutant)
    assert not CHECKS[finding](bench, FEDAVG)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", JOINT, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_mutant_of_adaptive_clipping_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Any]
) -> None:
    module, name, finding = JOINT[mutant]
    monkeypatch.setattr(module, name, mutant)
    assert not CHECKS[finding](bench, ADAPTIVE)


SHRINK = "shrink = tf.minimum(tf.constant(1.0, tf.float64), clip_norm / tf.maximum(norm, 1e-300))"
STEP = "steps.append(tf.cast(tf.math.multiply_no_nan(wide, factor), tf.int32))"
# Each layer of the audit's model is one of the pieces that are clipped.
PER_LAYER = """own = tf.minimum(clip_norm / tf.maximum(tf.norm(wide), 1e-300), 1.0)
        held = tf.where(finite, own * GRID * _MARGIN / clip_norm, 0.0)
        steps.append(tf.cast(tf.math.multiply_no_nan(wide, held), tf.int32))"""
UNTRUSTED: dict[str, tuple[tuple[str, str], ...]] = {
    "no clip": ((SHRINK, "shrink = tf.constant(1.0, tf.float64)"),),
    "a clip for each layer": ((STEP, PER_LAYER),),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", UNTRUSTED)
def test_a_mutant_of_the_clip_is_found(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    for room in (worker_room, kit, privacy_gateway):
        source = Path(room.__path__[0])
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, tmp_path / "rooms" / source.name, ignore=ignored)
    changed = tmp_path / "rooms" / "worker" / "training" / "federated.py"
    text = changed.read_text(encoding="utf-8")
    for old, new in UNTRUSTED[mutant]:
        assert text.count(old) == 1, "the mutant changes nothing"
        text = text.replace(old, new)
    changed.write_text(text, encoding="utf-8")
    monkeypatch.setattr(start, "_IMPORTABLE", (tmp_path / "rooms",))
    wrong = Zygote()
    try:
        moved = mechanism.distances(bench.forgetting(start=wrong), SLOW)
    finally:
        wrong.close()
    assert any(1.2 * mechanism.CLIP < distance < math.inf for distance in moved), moved
