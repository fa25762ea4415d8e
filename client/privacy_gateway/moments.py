"""Sums that the price engine needs in the log domain, and the bound for a fixed-size sample.

Apart from `privacy_gateway.rdp` only to keep both readable; like it, this module must never import
numpy, scipy or dp-accounting.

Source of the bound: Wang, Balle, Kasiviswanathan 2019 (arXiv:1808.00087), theorem 27.
"""

from __future__ import annotations

import decimal
import itertools
import math
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache


@lru_cache(maxsize=256)
def log_binomials(n: int) -> tuple[float, ...]:
    """Logarithms of C(n, k) for k = 0..n, from exact integers."""
    return tuple(math.log(math.comb(n, k)) for k in range(n + 1))


def log_expm1(x: float) -> float:
    """log(exp(x) − 1) for x > 0 without overflow."""
    return math.log(math.expm1(x)) if x < 30.0 else x + math.log1p(-math.exp(-x))


def log1p_sum_exp(terms: Sequence[float]) -> float:
    """log(1 + Σ exp(term)), exact for small and for huge sums."""
    peak = max(terms)
    if peak < 600.0:
        return math.log1p(math.fsum(math.exp(term) for term in terms))
    return peak + math.log(math.fsum(math.exp(term - peak) for term in terms))


def fixed_size_cumulant(q: float, z: float, order: int) -> float:
    """Bound of theorem 27 on (a − 1) R_a at integer a."""
    if order == 1:
        return 0.0
    log_q, binomials = math.log(q), log_binomials(order)
    scale = 1.0 / (z * z)
    differences = _log_even_differences(z)
    second = min(math.log(4.0) + log_expm1(scale), math.log(2.0) + scale)
    terms = [2.0 * log_q + binomials[2] + second]
    for k in range(3, order + 1):
        centred = math.log(4.0) + 0.5 * (differences[k // 2] + differences[(k + 1) // 2])
        plain = math.log(2.0) + (k - 1) * k * scale / 2.0
        terms.append(min(centred, plain) + k * log_q + binomials[k])
    return log1p_sum_exp(terms)


@lru_cache(maxsize=64)
def _log_even_differences(z: float) -> tuple[float, ...]:
    """Logarithm of Δ^(2j) f(0), f(x) = exp(x(x − 1)/(2z²)), for j = 0..64: even central moments.

    The alternating sums cancel by hundreds of digits at large z, so they are taken in decimal
    arithmetic wide enough for z ≤ 1e4 and order 128.
    """
    with decimal.localcontext() as context:
        context.prec, context.Emax, context.Emin = 640, decimal.MAX_EMAX, decimal.MIN_EMIN
        ratio = (1 / (Decimal(z) * Decimal(z))).exp()
        values, power = [Decimal(1)], Decimal(1)
        for _ in range(128):
            values.append(values[-1] * power)
            power *= ratio
        logs = [0.0]
        for level in range(1, 129):
            values = [b - a for a, b in itertools.pairwise(values)]
            if level % 2 == 0:
                logs.append(_log_decimal(values[0]))
        return tuple(logs)


def _log_decimal(value: Decimal) -> float:
    """Natural logarithm as a double, from mantissa and exponent."""
    exponent = value.adjusted()
    return math.log(float(value.scaleb(-exponent))) + exponent * math.log(10.0)
