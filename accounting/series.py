"""dp-accounting's divergence of a sampled Gaussian, with the same bits, many times sooner.

dp-accounting sums its series term by term, and most of the time goes into calling a special
function for one number. Here the terms of one order are made at once and added in dp-accounting's
own order by its own rule, so every value is equal to the last bit, which the tests demand. It is
for grids of hundreds of requests that nobody has asked for yet (the allowed region): what is
charged, quoted and shown for one request must come from dp-accounting itself.

Source: Mironov, Talwar, Zhang 2019 (arXiv:1908.10530), section 3.3, as dp-accounting 0.6 has it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Vector = NDArray[np.float64]

# The series is given up there, and the order with it.
MOST_TERMS: Final = 1000
_BLOCK: Final = 128
# Terms this far below the sum end it; no less far is worth a look at the whole sum.
_NEGLIGIBLE: Final = 30.0
_LOOK: Final = 0.7


def divergence(q: float, z: float, order: float) -> float:
    """R_a of the Poisson-sampled Gaussian as dp-accounting computes it, nats per round.

    Args:
        q: sampling rate, 0 < q < 1.
        z: noise multiplier.
        order: above 1.

    Returns:
        The value, or infinity where dp-accounting gives the order up.
    """
    if float(order).is_integer():
        return _log_moment_whole(q, z, int(order)) / (order - 1)
    return _log_moment_fractional(q, z, order) / (order - 1)


def _log_moment_whole(q: float, sigma: float, order: int) -> float:
    i, chosen = _whole_terms(order)
    terms = chosen + i * math.log(q) + (order - i) * math.log1p(-q)
    terms += (i * i - i) / (2 * (sigma**2))
    total, log1p, exp = -math.inf, math.log1p, math.exp
    for s in terms.tolist():
        total = log1p(exp(s - total)) + total if s < total else log1p(exp(total - s)) + s
    return total


def _log_moment_fractional(q: float, sigma: float, order: float) -> float:
    """Both tails of the integral, split where the mixture's halves are equal."""
    below = above = last_below = last_above = -math.inf
    log1p, exp = math.log1p, math.exp
    for start in range(0, MOST_TERMS, _BLOCK):
        terms = _fractional_terms(q, sigma, order, start, min(start + _BLOCK, MOST_TERMS))
        for s0, s1 in zip(*terms, strict=True):
            # `_log_add` written out: this line and the next are most of the time.
            below = log1p(exp(s0 - below)) + below if s0 < below else log1p(exp(below - s0)) + s0
            above = log1p(exp(s1 - above)) + above if s1 < above else log1p(exp(above - s1)) + s1
            if s0 < last_below and s1 < last_above:
                largest, least = (s0 if s0 > s1 else s1), (below if below > above else above)
                if largest < least + _LOOK - _NEGLIGIBLE:
                    total = _log_add(below, above)
                    if largest < total - _NEGLIGIBLE:
                        return total
            last_below, last_above = s0, s1
    return math.inf


def _fractional_terms(
    q: float, sigma: float, order: float, start: int, end: int
) -> tuple[list[float], list[float]]:
    """Terms of the two tails in the log domain."""
    z0 = sigma**2 * math.log(1 / q - 1) + 0.5
    whole, chosen = _fractional_choices(order)
    i, log_choices = whole[start:end], chosen[start:end]
    j = order - i
    below = log_choices + i * math.log(q) + j * math.log1p(-q)
    above = log_choices + j * math.log(q) + i * math.log1p(-q)
    scale, root = 2 * (sigma**2), math.sqrt(2) * sigma
    below = below + (i * i - i) / scale + (math.log(0.5) + _log_erfc((i - z0) / root))
    above = above + (j * j - j) / scale + (math.log(0.5) + _log_erfc((z0 - j) / root))
    return below.tolist(), above.tolist()


def _log_erfc(x: Vector) -> Vector:
    found: Vector = math.log(2) + special.log_ndtr(-x * 2**0.5)
    return found


@lru_cache(maxsize=256)
def _whole_terms(order: int) -> tuple[Vector, Vector]:
    """The numbers 0..a, and the logarithms of C(a, k)."""
    k = np.arange(order + 1, dtype=np.float64)
    return k, _log_choose(order, k)


@lru_cache(maxsize=256)
def _fractional_choices(order: float) -> tuple[Vector, Vector]:
    k = np.arange(MOST_TERMS, dtype=np.float64)
    return k, _log_choose(order, k)


def _log_choose(n: float, k: Vector) -> Vector:
    found: Vector = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return found


def _log_add(first: float, second: float) -> float:
    """log(e^x + e^y), by the formula of dp-accounting; finite numbers, as all terms are."""
    small, large = (second, first) if second < first else (first, second)
    return math.log1p(math.exp(small - large)) + large
