"""What a budget of unsampled Gaussians holds, by fifty digits of mpmath.

δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2) (Dong, Roth, Su 2019), solved for μ². The accountant does
it in its own decimal arithmetic; this module must never import that.
"""

from __future__ import annotations

from functools import lru_cache

import mpmath

PICO, NANO = 10**12, 10**9


@lru_cache(maxsize=4096)
def limit(epsilon_nano: int, delta: str) -> int:
    """The largest μ² in units of 1e-12 whose δ at this ε is not above `delta`."""
    low, high = 0, 2 * epsilon_nano * (PICO // NANO)
    with mpmath.workdps(50):
        epsilon, bound = mpmath.mpf(epsilon_nano) / NANO, mpmath.mpf(delta)
        while low < high:
            middle = (low + high + 1) // 2
            mu = mpmath.sqrt(mpmath.mpf(middle) / PICO)
            first = mpmath.ncdf(-epsilon / mu + mu / 2)
            second = mpmath.exp(epsilon) * mpmath.ncdf(-epsilon / mu - mu / 2)
            low, high = (middle, high) if first - second <= bound else (low, middle - 1)
    return low
