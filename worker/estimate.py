"""What a charged evaluation says: metrics of a model on private clients, with their uncertainty.

One round like any other: a cohort, clipped totals (`worker.training.evaluation.client_totals`), one
Gaussian on their sum. What follows is post-processing of the noised vector: each metric is a share
of two noised numbers, and its interval is Fieller's (1954), from the known noise alone. It covers
the noise, not the luck of the cohort. Whatever comes out of the noise, there is an answer: a count
that drowned gives the whole range. The totals themselves, noised or not, are not shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from accounting.plan import TrainingPlan
from worker.aggregate import Weights, check_sum, noised_mean
from worker.noise import NoiseSource
from worker.sampling import draw_cohort
from worker.steps import Train
from worker.task import METRIC_BOUNDS
from worker.trainers import nothing

# Two-sided 95 % of a Gaussian.
WIDTH = 1.959963984540054


def evaluate(
    plan: TrainingPlan,
    names: Sequence[str],
    weights: Weights,
    *,
    round_number: int,
    source: NoiseSource,
    train: Train,
) -> dict[str, float]:
    """One paid evaluation.

    Args:
        plan: what was priced; its clip norm is fixed.
        names: metrics, in the order of the totals.
        weights: the model, released before.
        round_number: of the job.
        source: this round's own entropy.
        train: asks the sandboxes.

    Returns:
        `dp_<metric>`, `dp_<metric>_low`, `dp_<metric>_high` for each metric; no estimate, only
        bounds, where the noised count of examples is not above zero.

    Raises:
        AggregateInvalid: what came back cannot be a sum of clipped totals.
        ValueError: the plan's clip norm adapts, or its rounds hang together.
    """
    parameters = plan.engine_parameters()
    norm, noise = plan.clip_norm, parameters["noise_multiplier"]
    if norm is None or plan.mechanism.whole or not isinstance(noise, float):
        raise ValueError("Expected a plan with a fixed clip norm and independent rounds")
    cohort = draw_cohort(
        plan.sampling,
        plan.population_clients,
        plan.clients_per_round,
        source.derive(f"round/{round_number}/cohort"),
    )
    sums = train(round_number, cohort, weights, None, nothing)
    check_sum(sums, [(len(names) + 1,)], len(cohort))
    (noised,) = noised_mean(
        sums,
        clip_norm=norm,
        noise_multiplier=noise,
        denominator=plan.clients_per_round,
        source=source.derive(f"round/{round_number}/noise"),
    )
    return estimates(names, noised.astype(np.float64), noise * norm / plan.clients_per_round)


def estimates(names: Sequence[str], totals: np.ndarray, sigma: float) -> dict[str, float]:
    """Shares and their intervals.

    Args:
        names: metrics.
        totals: noised totals over their bounds, and last the noised count; float64 (names + 1,).
        sigma: standard deviation of the noise on each of them.
    """
    told: dict[str, float] = {}
    count = float(totals[-1])
    for name, total in zip(names, totals[:-1].tolist(), strict=True):
        bound = METRIC_BOUNDS[name]
        low, high = interval(total, count, sigma)
        if count > 0:
            told[f"dp_{name}"] = bound * min(max(total / count, 0.0), 1.0)
        told |= {f"dp_{name}_low": bound * low, f"dp_{name}_high": bound * high}
    return told


def interval(total: float, count: float, sigma: float) -> tuple[float, float]:
    """Fieller's 95 % interval of a share total/count within [0, 1]; all of it where count drowns.

    Args:
        total: noised.
        count: noised independently.
        sigma: standard deviation of the noise on each, above 0.
    """
    noise = (WIDTH * sigma) ** 2
    square = count**2 - noise
    if count <= 0 or square <= 0:
        return 0.0, 1.0
    middle = total * count / square
    half = math.sqrt(noise * (total**2 + square)) / square
    low, high = (min(max(edge, 0.0), 1.0) for edge in (middle - half, middle + half))
    return low, high
