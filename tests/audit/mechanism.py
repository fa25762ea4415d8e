"""The mechanism, judged by what whole jobs release: each finding is a promise that was broken.

Statistics are taken under keys that are fixed, so a verdict never changes from run to run; their
bounds are those a right mechanism would exceed once in a million keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

from accounting.plan import CLIP_LEARNING_RATE, CLIP_QUANTILE
from tests.audit.bench import PEOPLE, PER_ROUND, Bench, Keys, Run, World, nobody, people

Finding = Literal["influence", "noise", "repeated", "denominator", "cohorts", "count"]

CLIP, NOISE = 0.7, 1.3
ROUNDS = 120
ONCE_IN_A_MILLION = 1e-6
# Truncation and margin can only shrink; float32 weights are the rest.
SLACK = 2.0**-18


@dataclass(frozen=True)
class Case:
    """One way to train, as the audit sees it: a row of the table.

    Attributes:
        name: of the row.
        algorithm: members of the request's `algorithm` besides the clip norm.
        request: other members of the request.
        influence: the most that one person can move a round's sum, in units of C.
        noise: standard deviation of the noise on the first round's sum, in units of C.
        sampled: whether a round draws its people at random.
        tree: whether noise lives on a tree: rounds share it, and one key deals people and noise.
        counted: whether to count cohorts, too; one row will do, the sampler knows no algorithm.
        clip: C of the first round.
        count_noise: σ_b on the count of clients within C, where C adapts.
    """

    name: str
    algorithm: dict[str, Any]
    request: dict[str, Any] = field(default_factory=dict)
    influence: float = 1.0
    noise: float = NOISE
    sampled: bool = True
    tree: bool = False
    counted: bool = False
    clip: float = CLIP
    count_noise: float | None = None

    def body(self, **changes: Any) -> dict[str, Any]:
        """The request of one job."""
        algorithm = {
            "clip_norm": CLIP,
            # Small batches and a large rate: every layer of a client's update is beyond C.
            "client_optimizer": {"name": "sgd", "learning_rate": 1.0},
            "server_optimizer": {"name": "sgd", "learning_rate": 1.0},
            "batch_size": 2,
        }
        body = {"noise_multiplier": NOISE, "algorithm": algorithm | self.algorithm}
        return body | self.request | changes

    @property
    def denominator(self) -> float:
        """q·N, public."""
        return float(self.request.get("clients_per_round", PER_ROUND))


Check = Callable[[Bench, Case], bool]


def influence(bench: Bench, case: Case) -> bool:
    """With and without one person, all else equal: the sums differ by at most C."""
    moved = distances(bench, case)
    # A probe that moves nothing proves nothing.
    return 0.99 * case.clip < max(moved) <= case.influence * case.clip * (1 + SLACK)


def distances(bench: Bench, case: Case) -> list[float]:
    """How far one person moves a round's sum, for several kinds of records; ∞ if a job stops."""
    world = people()
    base = bench.run(world, Keys(), **case.body())
    someone = int(base.cohorts[0][0])
    without = bench.run(world.without(someone), Keys(), **case.body())
    changed = (bench.run(other, Keys(), **case.body()) for other in _unusual(world, someone))
    return [_distance(run, without, case) for run in (base, *changed)]


def _distance(run: Run, without: Run, case: Case) -> float:
    if not (run.completed and without.completed):
        return math.inf
    far = np.linalg.norm(run.updates[0] - without.updates[0]) * case.denominator
    rounding = case.denominator * 2.0**-22 * np.linalg.norm(run.weights[-1])
    return max(0.0, float(far - rounding))


def noise(bench: Bench, case: Case) -> bool:
    """Two seeds, all else equal: the difference is Gaussian of variance 2·(zC)² on the sum."""
    first, second = (bench.run(people(), Keys(noise=seed), **case.body()) for seed in (1, 2))
    difference = (first.updates[0] - second.updates[0]) * case.denominator
    return is_gaussian(difference, math.sqrt(2) * case.noise * case.clip)


def repeated(bench: Bench, case: Case) -> bool:
    """Nobody has data, so two rounds are two noises: independent, of the size that was priced."""
    run = bench.run(nobody(), Keys(), **case.body(rounds=2))
    sums = [update * case.denominator for update in run.updates]
    correlation = float(np.corrcoef(*sums)[0, 1])
    # On a tree the second prefix takes the place of the first, noise and all: −1/√2.
    expected = -math.sqrt(0.5) if case.tree else 0.0
    fresh = abs(correlation - expected) < 5 / math.sqrt(sums[0].size)
    return fresh and is_gaussian(sums[0], case.noise * case.clip)


def denominator(bench: Bench, case: Case) -> bool:
    """Nobody has data: whoever is drawn, the same noise gives the same bytes."""
    runs = [bench.run(nobody(), Keys(cohort=seed), **case.body()) for seed in (1, 2)]
    drawn = {len(run.cohorts[0]) for run in runs}
    same = all(np.array_equal(run.weights[-1], runs[0].weights[-1]) for run in runs)
    return same and (len(drawn) > 1 or not case.sampled)


def cohorts(bench: Bench, case: Case) -> bool:
    """Sizes are Binomial(N, q), everybody is drawn equally often, no round repeats another."""
    # The sampler does not look at the model: a small one, and noise that makes the job cheap.
    small = {"input": {"shape": [16]}, "layers": [{"type": "Dense", "units": 3}]}
    changes = {"rounds": ROUNDS, "noise_multiplier": 4.0, "model": {"architecture": small}}
    run = bench.run(nobody(), Keys(), **case.body(**changes))
    if len(run.cohorts) != ROUNDS:
        return False
    sizes = [len(set(cohort.tolist())) for cohort in run.cohorts]
    return binomial(sizes, PEOPLE, PER_ROUND) and fair(run.cohorts)


def count(bench: Bench, case: Case) -> bool:
    """What the next C tells: noise σ_b on the count of clients within C, at most ½ of one person.

    C and the model come from one round, so the noise on both is what was priced jointly.
    """
    if case.count_noise is None:
        return True
    world = people()
    base = bench.run(world, Keys(), **case.body(rounds=2))
    someone = int(base.cohorts[0][0])
    huge = bench.run(world.changed(someone, "huge", lambda x: x * 1e12), **case.body(rounds=2))
    without = bench.run(world.without(someone), **case.body(rounds=2))
    moved = [abs(float(counts(run, case)[0] - counts(without, case)[0])) for run in (base, huge)]
    small = {"input": {"shape": [16]}, "layers": [{"type": "Dense", "units": 3}]}
    changes = {"rounds": ROUNDS, "noise_multiplier": 1.9, "model": {"architecture": small}}
    silent = bench.run(nobody(), **case.body(**changes))
    return 0.49 < max(moved) < 0.5 + 1e-5 and is_gaussian(counts(silent, case), case.count_noise)


def counts(run: Run, case: Case) -> np.ndarray:
    """The noised sums of ±½, from how C moved (Andrew et al. 2021, section 3)."""
    shares = CLIP_QUANTILE - np.diff(np.log(run.norms)) / CLIP_LEARNING_RATE
    return (shares - 0.5) * case.denominator


def binomial(sizes: list[int], clients: int, per_round: int) -> bool:
    """Mean and dispersion of cohort sizes are those of Binomial(N, q), by two-sided tests."""
    q, count = per_round / clients, len(sizes)
    variance = clients * q * (1 - q)
    mean = stats.norm.sf(abs(np.mean(sizes) - per_round) / math.sqrt(variance / count))
    dispersion = float(np.square(np.array(sizes) - per_round).sum() / variance)
    tails = stats.chi2.cdf(dispersion, count), stats.chi2.sf(dispersion, count)
    return 2 * min(mean, *tails) > ONCE_IN_A_MILLION


def fair(drawn: list[np.ndarray]) -> bool:
    """Everybody takes part equally often, and never at the same times as the round before."""
    times = np.bincount(np.concatenate(drawn), minlength=PEOPLE)
    q, rounds = PER_ROUND / PEOPLE, len(drawn)
    spread = float(np.square(times - rounds * q).sum() / (rounds * q * (1 - q)))
    tails = stats.chi2.cdf(spread, PEOPLE), stats.chi2.sf(spread, PEOPLE)
    return 2 * min(tails) > ONCE_IN_A_MILLION


CHECKS: dict[Finding, Check] = {
    "influence": influence,
    "noise": noise,
    "denominator": denominator,
    "repeated": repeated,
    "cohorts": cohorts,
    "count": count,
}


def findings(bench: Bench, case: Case) -> set[Finding]:
    """The audit: names of the promises that are broken; none for a right mechanism."""
    left_out: set[Finding] = set() if case.counted else {"cohorts"}
    if case.tree:
        left_out |= {"noise", "denominator"}
    asked = {name: check for name, check in CHECKS.items() if name not in left_out}
    return {name for name, check in asked.items() if not check(bench, case)}


def _unusual(world: World, person: int) -> Iterator[World]:
    """What one person may have in her records."""
    for name, change in (
        ("large", lambda x: x * 20),
        ("huge", lambda x: x * 1e12),
    ):
        yield world.changed(person, name, change)


def is_gaussian(sample: np.ndarray, deviation: float) -> bool:
    """Variance by χ², mean and shape by a normal and a Kolmogorov–Smirnov test."""
    scaled = sample / deviation
    square = float(np.square(scaled).sum())
    tails = stats.chi2.cdf(square, sample.size), stats.chi2.sf(square, sample.size)
    shape = stats.kstest(scaled, "norm").pvalue
    return 2 * min(tails) > ONCE_IN_A_MILLION and shape > ONCE_IN_A_MILLION
