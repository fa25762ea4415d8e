"""Where on dp-accounting's default grid the stand-alone ε has its minimum, found quickly.

ε is a minimum over 156 orders, and dp-accounting needs a hundred milliseconds for the ninety
fractional ones. There its series gives an upper bound of the divergence, so an order whose exact
divergence cannot beat the best one known need not be asked. The exact values here (quadrature and
the finite sum) only narrow that search: they must never be shown, charged or admitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Final

import numpy as np
from dp_accounting.rdp import compute_epsilon
from numpy.typing import NDArray

from accounting.mechanism import Mechanism
from privacy_gateway.moments import log_binomials

# The grid of `RdpAccountant()`.
FRACTIONAL: Final = np.array([1 + x / 10.0 for x in range(1, 100) if x % 10])
WHOLE: Final = np.array([float(order) for order in (*range(2, 64), 128, 256, 512, 1024)])

# Below, the quadrature needs too fine a grid; above, other bounds than the divergence's apply.
LEAST_NOISE: Final = 0.2
LEAST_EPSILON: Final = 1e-2

Divergence = Callable[[Mechanism, float], float]


def least_epsilon(
    mechanism: Mechanism, rounds: int, delta: float, divergence: Divergence
) -> float | None:
    """The minimum over the default grid, by `divergence` at as few orders as it takes.

    Args:
        mechanism: one charge unit.
        rounds: how many of them.
        delta: the budget's δ.
        divergence: dp-accounting's value at one order, nats per charge unit.

    Returns:
        ε, or None where the shortcut does not apply: not Poisson-sampled, very little noise, hardly
        any ε.
    """
    sampled = mechanism.kind in ("poisson_gaussian", "adaptive_clipping_gaussian")
    if not sampled or mechanism.sampling_rate == 1.0 or mechanism.noise_multiplier < LEAST_NOISE:
        return None

    def asked(order: float) -> float:
        epsilon, _ = compute_epsilon([order], [rounds * divergence(mechanism, order)], delta)
        return float(epsilon)

    fractional, whole = _divergences(mechanism)
    best = min(asked(order) for _, order in islice(_ranked(WHOLE, whole, rounds, delta), 2))
    for bound, order in _ranked(FRACTIONAL, fractional, rounds, delta):
        if bound >= best:
            break
        best = min(best, asked(order))
    return best if math.isfinite(best) and best >= LEAST_EPSILON else None


def _ranked(
    orders: NDArray[np.float64], divergences: NDArray[np.float64], rounds: int, delta: float
) -> Iterator[tuple[float, float]]:
    """Exact ε and order, the least ε first."""
    added, subtracted = _conversion(orders is WHOLE, delta)
    epsilons = rounds * divergences + added - subtracted
    for place in epsilons.argsort():
        yield float(epsilons[place]), float(orders[place])


@lru_cache(maxsize=64)
def _conversion(whole: bool, delta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What (ε, δ) costs above the divergence, by order, in two parts."""
    orders = WHOLE if whole else FRACTIONAL
    return np.log1p(-1.0 / orders), np.log(delta * orders) / (orders - 1.0)


@lru_cache(maxsize=4096)
def _divergences(mechanism: Mechanism) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact R_a at the fractional orders by quadrature, at the whole ones by the finite sum."""
    q, z = mechanism.sampling_rate, mechanism.noise_multiplier
    step = min(0.05, 0.25 * z)
    low, high = -14.0, float(FRACTIONAL[-1]) / z + 14.0
    t = np.arange(math.ceil((high - low) / step) + 1) * step + low
    mixture = np.logaddexp(math.log1p(-q), math.log(q) + t / z - 1.0 / (2.0 * z * z))
    heights = FRACTIONAL[:, None] * mixture - t * t / 2.0
    peaks = heights.max(axis=1)
    sums = np.exp(heights - peaks[:, None]).sum(axis=1) * step / math.sqrt(2.0 * math.pi)
    fractional = np.maximum(0.0, peaks + np.log(sums)) / (FRACTIONAL - 1.0)
    return fractional, _whole_divergences(q, z)


def _whole_divergences(q: float, z: float) -> NDArray[np.float64]:
    """The finite sums of all whole orders at once, k = 0 and 1 left out as they cancel exactly."""
    gain = (_K * _K - _K) / (2.0 * z * z)
    # log(e^x − 1) without overflow; beyond 30 the 1 changes no digit that a search needs.
    excess = np.where(gain < 30.0, np.log(np.expm1(np.minimum(gain, 30.0))), gain)
    terms = _LOG_BINOMIALS + _K * math.log(q) + (_A - _K) * math.log1p(-q) + excess
    peaks = np.maximum.reduceat(terms, _STARTS)
    sums = np.add.reduceat(np.exp(terms - np.repeat(peaks, _LENGTHS)), _STARTS)
    found: NDArray[np.float64] = np.logaddexp(0.0, peaks + np.log(sums)) / (WHOLE - 1.0)
    return found


# Terms k = 2..a of every whole order a, one after the other.
_LENGTHS: Final = WHOLE.astype(int) - 1
_STARTS: Final = np.concatenate(([0], np.cumsum(_LENGTHS)[:-1]))
_A: Final = np.repeat(WHOLE, _LENGTHS)
_K: Final = np.concatenate([np.arange(2.0, order + 1.0) for order in WHOLE])
_LOG_BINOMIALS: Final = np.concatenate([np.array(log_binomials(int(order))[2:]) for order in WHOLE])
