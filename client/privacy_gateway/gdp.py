"""The filter for budgets of unsampled Gaussians only: Σ 1/z² ≤ μ², in exact integers.

A Gaussian with noise multiplier z is 1/z-GDP, and fully adaptive composition of Gaussians that
stops before Σ 1/z² would pass μ² is μ-GDP (Smith, Thakurta 2022, arXiv:2210.17520; also Koskela,
Tobaben, Honkela 2023, arXiv:2209.15596). Its δ at ε is exactly

    δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2)        (Dong, Roth, Su 2019, arXiv:1905.02383)

Spending is kept in the same vectors as everywhere: the Rényi divergence of such a Gaussian at order
2 is 1/z², so that one coordinate, in units of 1e-12, is the sum; all other orders are disabled.

Everything is computed in decimal arithmetic of 60 digits, the same on every machine, and rounded
towards privacy. This module must never import numpy, scipy or dp-accounting, and never use a float.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

from privacy_gateway import rdp

FILTER: Final = "gdp"
KINDS: Final = ("gaussian", rdp.FREE)
"""Mechanisms such a budget can pay for."""

ORDER: Final = 2.0
INDEX: Final = rdp.ORDERS.index(ORDER)
WEIGHTS: Final = tuple(rdp.FEMTO if order == ORDER else 0 for order in rdp.ORDERS)
"""The whole δ belongs to the one coordinate that counts. No weighted filter has a weight of 0."""

_DIGITS: Final = 60
# Sixty digits lose a few to cancellation; forty are kept as margin, on the safe side.
_MARGIN: Final = Decimal("1e-40")
_SQRT_PI: Final = Decimal("1.77245385090551602729816748334114518279754945612238712821380779")
_SERIES_BELOW: Final = 4
_NEWTON_STEPS: Final = 20


def chosen(weights: Sequence[int]) -> bool:
    """Whether a budget with these weights lives by this filter."""
    return tuple(weights) == WEIGHTS


def limits_of(
    epsilon_nano: int, delta: str, weights: Sequence[int], orders: Sequence[float] = rdp.ORDERS
) -> tuple[int, ...]:
    """Limits of a budget by the filter its weights say, pico-nats rounded down."""
    if chosen(weights):
        return limits(epsilon_nano, delta)
    return rdp.limits(epsilon_nano, delta, weights, orders)


def spent_of(
    epsilon_nano: int,
    delta: str,
    weights: Sequence[int],
    limit: Sequence[int],
    spent: Sequence[int],
) -> int:
    """The odometer of a budget by the filter its weights say, 1e-9, rounded up."""
    if chosen(weights):
        return epsilon_spent(delta, spent)
    return rdp.epsilon_spent(epsilon_nano, limit, spent)


def exact_costs(noise_multiplier: float) -> tuple[int, ...]:
    """R_a = a / (2 z²) at every order, pico-nats rounded up, from the exact fraction z is."""
    z = Fraction(noise_multiplier)
    return tuple(-(-(Fraction(order) * rdp.PICO) // (2 * z * z)) for order in rdp.ORDERS)


@lru_cache(maxsize=1024)
def limits(epsilon_nano: int, delta: str) -> tuple[int, ...]:
    """μ² in units of 1e-12, rounded down, at order 2; every other order is disabled (−1).

    Args:
        epsilon_nano: ε in units of 1e-9.
        delta: δ as decimal text.
    """
    bound = Decimal(delta) * (1 - _MARGIN)
    # At μ² = 2 ε the first term alone is one half, far above any δ allowed.
    pico_of_nano = rdp.PICO // rdp.NANO
    within = _last(
        lambda square: _delta(epsilon_nano, square) <= bound, 0, 2 * epsilon_nano * pico_of_nano
    )
    return tuple(within if order == ORDER else -1 for order in rdp.ORDERS)


def epsilon_spent(delta: str, spent: Sequence[int]) -> int:
    """The odometer: least ε (1e-9, rounded up) at which Σ 1/z² so far is (ε, δ)-DP; 0 for none."""
    return _epsilon(delta, spent[INDEX])


@lru_cache(maxsize=4096)
def _epsilon(delta: str, square: int) -> int:
    bound = Decimal(delta) * (1 - _MARGIN)
    if _delta(0, square) <= bound:
        return 0
    guess = _near(square, bound)
    # The guess is exact to a unit or two; what decides is δ itself on both sides of the answer.
    low, high = max(0, guess - 2), guess + 2
    while _delta(low, square) <= bound:
        low = max(0, 2 * low - high)
    while _delta(high, square) > bound:
        high = 2 * high - low
    return _last(lambda nano: _delta(nano, square) > bound, low, high) + 1


def _near(square: int, bound: Decimal) -> int:
    """Where δ falls to the bound, by Newton's rule on log δ from the right; units of 1e-9."""
    with decimal.localcontext() as context:
        context.prec = _DIGITS
        context.Emax, context.Emin = decimal.MAX_EMAX, decimal.MIN_EMIN
        mu = (Decimal(square) / rdp.PICO).sqrt()
        epsilon = mu * mu / 2 + mu * (-2 * bound.ln()).sqrt()
        for _ in range(_NEWTON_STEPS):
            first = _upper_tail(epsilon / mu - mu / 2)
            second = epsilon.exp() * _upper_tail(epsilon / mu + mu / 2)
            step = ((first - second) / bound).ln() * (first - second) / second
            epsilon = max(Decimal(0), epsilon + step)
            if abs(step) * rdp.NANO < 1:
                break
        return int(epsilon * rdp.NANO)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Greatest number in [low, high] that holds; `low` does, and after one that fails all do."""
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _delta(epsilon_nano: int, square: int) -> Decimal:
    """δ of μ-GDP at ε, μ² in units of 1e-12; 0 for μ = 0."""
    if square <= 0:
        return Decimal(0)
    with decimal.localcontext() as context:
        context.prec = _DIGITS
        context.Emax, context.Emin = decimal.MAX_EMAX, decimal.MIN_EMIN
        epsilon, mu = Decimal(epsilon_nano) / rdp.NANO, (Decimal(square) / rdp.PICO).sqrt()
        return _upper_tail(epsilon / mu - mu / 2) - epsilon.exp() * _upper_tail(
            epsilon / mu + mu / 2
        )


def _upper_tail(x: Decimal) -> Decimal:
    """Φ(−x) = erfc(x/√2)/2 of the standard normal distribution."""
    half = _erfc(abs(x) / Decimal(2).sqrt()) / 2
    return half if x >= 0 else 1 - half


def _erfc(x: Decimal) -> Decimal:
    """erfc(x), x ≥ 0: a series of positive terms near 0, Legendre's continued fraction beyond."""
    bell = (-x * x).exp()
    if x < _SERIES_BELOW:
        term = total = x
        k = 0
        while term > total.scaleb(-_DIGITS - 2):
            k += 1
            term = term * 2 * x * x / (2 * k + 1)
            total += term
        return 1 - 2 * bell * total / _SQRT_PI
    # Sixty digits need about 2400/x² levels (150 at x = 4); twice that is taken.
    tail = x
    for k in range(20 + int(4800 / (x * x)), 0, -1):
        tail = x + Decimal(k) / (2 * tail)
    return bell / (tail * _SQRT_PI)
