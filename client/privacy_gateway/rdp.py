"""The independent price engine and the arithmetic of the budget filter, in the standard library.

The server prices with dp-accounting and refuses when this module disagrees; the offline verifier
recomputes every charge with it on a laptop. It must never import numpy, scipy or dp-accounting: a
common library would be a common mistake.

Units: a divergence is in nats (float); everything stored is an integer number of pico-nats, costs
rounded up and limits rounded down.

Sources: Mironov, Talwar, Zhang 2019 (arXiv:1908.10530) for Poisson sampling; Wang, Balle,
Kasiviswanathan 2019 (arXiv:1808.00087), theorem 27 and corollary 10, for a fixed-size sample;
Kairouz et al. 2021 (arXiv:2103.00039), appendix D, for trees; Choquette-Choo et al. 2023
(arXiv:2306.08153), theorem 4, for banded matrices; Canonne, Kamath, Steinke 2020
(arXiv:2004.00010), proposition 12, for the conversion to (ε, δ).
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from privacy_gateway.moments import (
    fixed_size_cumulant,
    log1p_sum_exp,
    log_binomials,
    log_expm1,
)

ENGINE: Final = "privacy_gateway.rdp/1"
ORDERS: Final = (
    1.5,
    2.0,
    2.5,
    3.0,
    3.5,
    4.0,
    5.0,
    6.0,
    8.0,
    10.0,
    13.0,
    18.0,
    26.0,
    40.0,
    64.0,
    128.0,
)
PICO: Final = 10**12
NANO: Final = 10**9
FEMTO: Final = 10**15
INT64_MAX: Final = 2**63 - 1
# The kind of mechanism that opens no person's data: public records alone, and no cost.
FREE: Final = "public_data"

# Beyond this many nats below the peak a term cannot change a double.
_NEGLIGIBLE: Final = 60.0


# ---------------------------------------------------------------------------------------------
# Divergences of one mechanism
# ---------------------------------------------------------------------------------------------
def gaussian_rdp(noise_multiplier: float, order: float) -> float:
    """Rényi divergence of the Gaussian mechanism: a / (2 z²) nats."""
    return order / (2.0 * noise_multiplier * noise_multiplier)


def sgm_rdp(q: float, noise_multiplier: float, order: float) -> float:
    """Rényi divergence of the Poisson-sampled Gaussian mechanism, nats per round.

    Args:
        q: sampling probability, 0 < q ≤ 1.
        noise_multiplier: standard deviation over sensitivity, on the sum.
        order: above 1; integers by the exact sum, others by quadrature.
    """
    if q == 1.0:
        return gaussian_rdp(noise_multiplier, order)
    if order == int(order):
        return _integer_log_moment(q, noise_multiplier, int(order)) / (order - 1.0)
    return _fractional_log_moment(q, noise_multiplier, order) / (order - 1.0)


def fixed_size_rdp(q: float, noise_multiplier: float, order: float) -> float:
    """Rényi divergence of a Gaussian on a sample without replacement, replace-one, nats.

    Args:
        q: sample size over population size.
        noise_multiplier: noise over the sensitivity of a *replacement*; for clipped sums that is
            half of the noise multiplier on the clip norm.
        order: above 1; between integers the cumulant is interpolated (corollary 10).
    """
    if q == 1.0:
        return gaussian_rdp(noise_multiplier, order)
    low = math.floor(order)
    below = fixed_size_cumulant(q, noise_multiplier, low)
    if low == order:
        return below / (order - 1.0)
    above = fixed_size_cumulant(q, noise_multiplier, low + 1)
    share = order - low
    return ((1.0 - share) * below + share * above) / (order - 1.0)


def tree_rdp(steps: int, noise_multiplier: float, order: float) -> float:
    """Rényi divergence of a whole tree that every client enters once: depth · a / (2 z²)."""
    return steps.bit_length() * gaussian_rdp(noise_multiplier, order)


def curve(mechanism: Mapping[str, Any], orders: Sequence[float] = ORDERS) -> tuple[float, ...]:
    """Divergence at every order, in nats, of a mechanism in the form the ledger stores.

    Raises:
        ValueError: an unknown kind, or a member that is missing or of the wrong type.
    """
    kind = mechanism.get("kind")
    if kind == FREE:
        return (0.0,) * len(orders)
    z = _noise(mechanism)
    if kind == "gaussian":
        return tuple(gaussian_rdp(z, order) for order in orders)
    if kind == "tree_gaussian":
        steps = _count(mechanism, "steps")
        return tuple(tree_rdp(steps, z, order) for order in orders)
    if kind == "banded_gaussian":
        uses = participations(mechanism)
        return tuple(uses * sgm_rdp(_rate(mechanism), z, order) for order in orders)
    if kind == "fixed_size_gaussian":
        return tuple(fixed_size_rdp(_rate(mechanism), z / 2.0, order) for order in orders)
    if kind in ("poisson_gaussian", "adaptive_clipping_gaussian"):
        return tuple(sgm_rdp(_rate(mechanism), z, order) for order in orders)
    raise ValueError(f"unknown mechanism {kind!r}")


def event_text(mechanism: Mapping[str, Any]) -> str:
    """The dp-accounting event of one charge unit, as text for people and auditors."""
    if mechanism["kind"] == FREE:
        return "NoOpDpEvent()"
    z = _noise(mechanism)
    gaussian = f"GaussianDpEvent(noise_multiplier={z!r})"
    kind = mechanism["kind"]
    if kind == "gaussian":
        return gaussian
    if kind == "tree_gaussian":
        steps = mechanism["steps"]
        return f"SingleEpochTreeAggregationDpEvent(noise_multiplier={z!r}, step_counts={steps})"
    size, clients = mechanism["clients_per_round"], mechanism["clients"]
    if kind == "fixed_size_gaussian":
        halved = f"GaussianDpEvent(noise_multiplier={z / 2.0!r})"
        return (
            f"SampledWithoutReplacementDpEvent(source_dataset_size={clients}, "
            f"sample_size={size}, event={halved})"
        )
    rate = _rate(mechanism)
    sampled = f"PoissonSampledDpEvent(sampling_probability={rate!r}, event={gaussian})"
    if kind == "banded_gaussian":
        return f"SelfComposedDpEvent(event={sampled}, count={participations(mechanism)})"
    return sampled


def charged_whole(mechanism: Mapping[str, Any]) -> bool:
    """Whether one correlated noise runs through all releases, so that none is paid for alone."""
    return mechanism.get("kind") in ("tree_gaussian", "banded_gaussian")


def _rate(mechanism: Mapping[str, Any]) -> float:
    """Sampling rate; a banded matrix samples within one of its b groups of N/b clients."""
    groups = _count(mechanism, "bands") if mechanism.get("kind") == "banded_gaussian" else 1
    q = _count(mechanism, "clients_per_round") * groups / _count(mechanism, "clients")
    if not 0.0 < q <= 1.0:
        raise ValueError(f"the sampling rate {q} is outside (0, 1]")
    return q


def participations(mechanism: Mapping[str, Any]) -> int:
    """Uses of a client's data in one charge unit; ceil(T / b) where a group has its turn."""
    if mechanism.get("kind") != "banded_gaussian":
        return 1
    return -(-_count(mechanism, "steps") // _count(mechanism, "bands"))


def _noise(mechanism: Mapping[str, Any]) -> float:
    """The noise multiplier is stored as the shortest text of a double, so hashes agree."""
    text = mechanism.get("noise_multiplier")
    z = float(text) if isinstance(text, str) else math.nan
    if not (math.isfinite(z) and z > 0):
        raise ValueError(f"noise_multiplier {text} is not the text of a positive number")
    return z


def _count(mechanism: Mapping[str, Any], name: str) -> int:
    value = mechanism.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive integer")
    return value


def _integer_log_moment(q: float, z: float, order: int) -> float:
    """(a − 1) R_a for integer a: the k = 0 and 1 terms cancel exactly, so tiny q loses nothing."""
    log_q, log_rest = math.log(q), math.log1p(-q)
    scale = 1.0 / (2.0 * z * z)
    binomials = log_binomials(order)
    return log1p_sum_exp(
        [
            binomials[k] + k * log_q + (order - k) * log_rest + log_expm1((k * k - k) * scale)
            for k in range(2, order + 1)
        ]
    )


def _fractional_log_moment(q: float, z: float, order: float) -> float:
    """Trapezoid rule for log E[(1 − q + q e^u)^a], u = t/z − 1/(2z²), t standard normal.

    The integrand is analytic in a strip of half-width π z (the zeros of the mixture), so the rule
    converges exponentially in that width over the step; the step below leaves about 1e-15.
    """
    width = min(3.0 * z, 4.0)
    step = 2.0 * math.pi * width / (36.0 + width * width / 2.0)
    low, high = -12.0, order / z + 12.0
    coarse = [low + 0.5 * i for i in range(math.ceil((high - low) * 2.0) + 1)]
    heights = [_log_integrand(q, z, order, t) for t in coarse]
    peak = max(heights)
    if peak < 30.0:
        excess = math.fsum(_excess(q, z, order, t) for t in _steps(low, high, step))
        return math.log1p(excess * step / math.sqrt(2.0 * math.pi))
    total = 0.0
    for start, end in _windows(coarse, heights, peak - _NEGLIGIBLE):
        total += math.fsum(
            math.exp(_log_integrand(q, z, order, t) - peak) for t in _steps(start, end, step)
        )
    return peak + math.log(total * step / math.sqrt(2.0 * math.pi))


def _steps(low: float, high: float, step: float) -> Iterator[float]:
    return (low + step * i for i in range(math.ceil((high - low) / step) + 1))


def _windows(
    points: Sequence[float], heights: Sequence[float], floor: float
) -> Iterator[tuple[float, float]]:
    """Contiguous stretches of the coarse grid, one cell wider, where the integrand matters."""
    start: float | None = None
    for i, height in enumerate(heights):
        if height >= floor and start is None:
            start = points[max(i - 1, 0)]
        elif height < floor and start is not None:
            yield start, points[i]
            start = None
    if start is not None:
        yield start, points[-1]


def _log_mixture(q: float, u: float) -> float:
    """log(1 − q + q e^u)."""
    if u > 30.0:
        return u + math.log(q + (1.0 - q) * math.exp(-u))
    return math.log1p(q * math.expm1(u))


def _log_integrand(q: float, z: float, order: float, t: float) -> float:
    return order * _log_mixture(q, t / z - 1.0 / (2.0 * z * z)) - t * t / 2.0


def _excess(q: float, z: float, order: float, t: float) -> float:
    """exp(−t²/2) · ((1 + y)^a − 1 − a y), y = q(e^u − 1).

    Subtracting 1 + a y, whose mean is exactly 1, keeps the digits of a moment barely above 1.
    """
    u = t / z - 1.0 / (2.0 * z * z)
    weight = math.exp(-t * t / 2.0)
    if u < 30.0:
        y = q * math.expm1(u)
        if abs(y) < 0.5:
            return weight * (math.expm1(order * math.log1p(y)) - order * y)
    # Exponents are joined before exp: neither factor alone need fit a double.
    shifted = math.exp(-((t - 1.0 / z) ** 2) / 2.0)
    linear = order * q * (shifted - weight)
    return math.exp(_log_integrand(q, z, order, t)) - weight - linear


# ---------------------------------------------------------------------------------------------
# Currency
# ---------------------------------------------------------------------------------------------
def ceil_pico(nats: float) -> int:
    """A cost: the least number of pico-nats that is not below `nats`.

    Raises:
        OverflowError: not finite, negative, or beyond 64 bits.
    """
    if not (math.isfinite(nats) and nats >= 0.0):
        raise OverflowError(f"{nats} nats cannot be stored")
    numerator, denominator = nats.as_integer_ratio()
    pico = -(-numerator * PICO // denominator)
    if pico > INT64_MAX:
        raise OverflowError(f"{nats} nats do not fit 64 bits")
    return pico


def floor_pico(nats: Decimal) -> int:
    """A limit: the greatest number of pico-nats that is not above `nats`."""
    return int((nats * PICO).to_integral_value(rounding=decimal.ROUND_FLOOR))


# ---------------------------------------------------------------------------------------------
# The weighted filter
# ---------------------------------------------------------------------------------------------
def default_weights(
    epsilon_nano: int, delta: str, orders: Sequence[float] = ORDERS
) -> tuple[int, ...]:
    """Shares of δ given to each order, in units of 1e-15, with a sum of at most 1e15.

    The greatest share goes to the order at which a budget of many equal Gaussian jobs would end,
    c = 1 + 0.75·sqrt(L/ρ), L = ln(1/δ), ρ = (sqrt(L + ε) − sqrt(L))²; the others fall off as
    1/(1 + distance)².
    """
    log_delta = -math.log(float(delta))
    rho = (math.sqrt(log_delta + epsilon_nano / NANO) - math.sqrt(log_delta)) ** 2
    centre = 1.0 + 0.75 * math.sqrt(log_delta / rho)
    distances = [abs(math.log(order - 1.0) - math.log(centre - 1.0)) for order in orders]
    nearest = distances.index(min(distances))
    raw = [1.0 / (1 + abs(k - nearest)) ** 2 for k in range(len(orders))]
    total = math.fsum(raw)
    # Rounded down, so that the shares never add up to more than the whole.
    return tuple(math.floor(share / total * (1 - 1e-15) * FEMTO) for share in raw)


def limits(
    epsilon_nano: int, delta: str, weights: Sequence[int], orders: Sequence[float] = ORDERS
) -> tuple[int, ...]:
    """B(a) = ε − log1p(−1/a) + log(w_a δ a)/(a − 1), pico-nats rounded down; negative disables.

    Args:
        epsilon_nano: ε in units of 1e-9.
        delta: δ as decimal text.
        weights: in units of 1e-15; 1e15 at an order gives it the full δ (a single job only).
        orders: the grid the weights belong to.
    """
    with decimal.localcontext() as context:
        context.prec = 50
        epsilon, whole = Decimal(epsilon_nano) / NANO, Decimal(delta) / FEMTO
        return tuple(
            floor_pico(epsilon - _conversion(Decimal(order), weight * whole))
            for order, weight in zip(orders, weights, strict=True)
        )


def _conversion(order: Decimal, delta: Decimal) -> Decimal:
    """What (ε, δ) costs above the divergence: log1p(−1/a) − log(δ a)/(a − 1)."""
    return (1 - 1 / order).ln() - (delta * order).ln() / (order - 1)


def epsilon_spent(epsilon_nano: int, limit: Sequence[int], spent: Iterable[int]) -> int:
    """The odometer: least ε (1e-9, rounded up) that a filter with these weights needed so far.

    0 for an untouched budget. With B(a) = ε − c(a) the minimum of spent(a) + c(a) is ε minus the
    most room left at an active order, an exact integer.
    """
    vector = tuple(spent)
    if not any(vector):
        return 0
    if len(vector) != len(limit):
        raise ValueError(f"Expected {len(limit)} orders, not {len(vector)}")
    # The lengths are equal; `strict` and a generator would cost as much again as the sum.
    room = max([bound - cost for bound, cost in zip(limit, vector) if bound >= 0])  # noqa: B905
    pico = epsilon_nano * (PICO // NANO) - room
    return max(0, -(-pico // (PICO // NANO)))
