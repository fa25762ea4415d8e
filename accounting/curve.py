"""The price of a mechanism: sixteen integers, agreed by two engines, or a refusal.

dp-accounting is the authority at integer orders. At the three fractional orders its series only
bounds the value from above (and does not always converge), so there both engines integrate
numerically, by different formulas. The larger value is charged, rounded up. A price must never
come from one engine alone, and must never be NaN, infinite or beyond 64 bits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Final

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from numpy.typing import NDArray

from accounting import optimum, series
from accounting.errors import price_disagreement, price_overflow
from accounting.mechanism import MAX_ROUNDS, Mechanism, check_count
from privacy_gateway import gdp, rdp

ENGINE: Final = f"dp-accounting {version('dp-accounting')}"
RELATIVE_TOLERANCE: Final = 1e-6
# A tenth of the currency's unit: dp-accounting sums around 1 and keeps no digits below 1e-15.
ABSOLUTE_TOLERANCE: Final = 1e-13
Divergences = Callable[[Mechanism, Sequence[float]], tuple[float, ...]]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
_DEFAULT_ORDERS: Final = np.array(RdpAccountant().orders)
_POISSON: Final = ("poisson_gaussian", "adaptive_clipping_gaussian", "banded_gaussian")
# A PLD at very large ε takes gigabytes; nobody needs the second figure there.
PLD_MAX_EPSILON: Final = 60.0

# The accountant's warnings about orders it gives up on are answered below, not printed.
logging.getLogger("absl").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Price:
    """What one charge unit of a mechanism costs.

    Attributes:
        mechanism: what is paid for.
        per_round: pico-nats at each of `rdp.ORDERS`, rounded up.
    """

    mechanism: Mechanism
    per_round: tuple[int, ...]

    @property
    def mechanism_digest(self) -> str:
        """Content hash of the mechanism."""
        return self.mechanism.digest

    def total(self, rounds: int) -> tuple[int, ...]:
        """Cost vector of `rounds` charge units, pico-nats; `rounds` may be 0.

        Raises:
            Refused: `price_overflow` beyond 64 bits, `invalid_request` on `rounds`.
        """
        if rounds != 0:
            check_count("rounds", rounds, MAX_ROUNDS)
        if max(self.per_round) * rounds > rdp.INT64_MAX:
            raise price_overflow(f"the price of {rounds} rounds does not fit 64 bits")
        return tuple(cost * rounds for cost in self.per_round)


@lru_cache(maxsize=65536)
def price(mechanism: Mechanism) -> Price:
    """Price by two engines, cached by the mechanism's content.

    Raises:
        Refused: `price_disagreement` when the engines differ by more than 1e-6 relative, or an
            integer order would be charged below dp-accounting's value; `price_overflow` when a
            value is not finite or does not fit.
    """
    return _priced(mechanism, authoritative(mechanism))


def _priced(mechanism: Mechanism, first: Sequence[float]) -> Price:
    """Both engines' larger value, where they agree."""
    second = rdp.curve(mechanism.canonical())
    for order, ours, theirs in zip(rdp.ORDERS, second, first, strict=True):
        if not agree(theirs, ours, mechanism.participations):
            raise price_disagreement(mechanism.digest, order, theirs, ours)
    try:
        costs = tuple(rdp.ceil_pico(max(a, b)) for a, b in zip(first, second, strict=True))
    except OverflowError as error:
        raise price_overflow(str(error)) from error
    if mechanism.kind == "gaussian":
        # The last digit of a double may lie below the true value; a GDP budget sums exact ones.
        exact = gdp.exact_costs(mechanism.noise_multiplier)
        costs = tuple(max(a, b) for a, b in zip(costs, exact, strict=True))
    return Price(mechanism, costs)


def agree(first: float, second: float, participations: int = 1) -> bool:
    """Whether two engines' values count as the same; NaN and infinity agree with nothing.

    The digits an engine loses are lost once for each use of a client's data.
    """
    if not (math.isfinite(first) and math.isfinite(second)):
        return False
    slack = RELATIVE_TOLERANCE * max(first, second) + ABSOLUTE_TOLERANCE * participations
    return abs(first - second) <= slack


def authoritative(mechanism: Mechanism) -> tuple[float, ...]:
    """The first engine's curve on `rdp.ORDERS`, nats per charge unit."""
    return _first_curve(mechanism, _divergences)


def _first_curve(mechanism: Mechanism, divergences: Divergences) -> tuple[float, ...]:
    if not _sampled(mechanism):
        return _divergences(mechanism, rdp.ORDERS)
    whole = [order for order in rdp.ORDERS if order.is_integer()]
    values = dict(zip(whole, divergences(mechanism, whole), strict=True))
    q, z = mechanism.sampling_rate, mechanism.noise_multiplier
    return tuple(
        values[order] if order in values else mechanism.participations * _quadrature(q, z, order)
        for order in rdp.ORDERS
    )


def standalone_epsilon(mechanism: Mechanism, rounds: int, delta: float) -> float:
    """ε of these rounds alone by dp-accounting's RDP accountant on its default orders.

    Args:
        mechanism: one charge unit.
        rounds: how many of them.
        delta: the budget's δ.
    """
    check_count("rounds", rounds, MAX_ROUNDS)
    return _standalone_epsilon(mechanism, rounds, delta)


@lru_cache(maxsize=4096)
def _standalone_epsilon(mechanism: Mechanism, rounds: int, delta: float) -> float:
    """A request is priced before the lock, under it, and before each block: the same each time."""
    quick = optimum.least_epsilon(mechanism, rounds, delta, _divergence)
    return quick if quick is not None else _searched(default_curve(mechanism), rounds, delta)


def _searched(curve: Curve, rounds: int, delta: float) -> float:
    """The least ε of all orders of a curve."""
    orders, divergences = curve
    epsilon, _ = compute_epsilon(orders, rounds * divergences, delta)
    return float(epsilon)


@lru_cache(maxsize=4096)
def standalone_epsilon_pld(mechanism: Mechanism, rounds: int, delta: float) -> float | None:
    """ε of these rounds alone by privacy loss distributions; for reports, never for admission.

    None where dp-accounting has no PLD for the sampler (fixed size), or the RDP ε is above 60.
    """
    if mechanism.kind == "fixed_size_gaussian":
        return None
    if standalone_epsilon(mechanism, rounds, delta) > PLD_MAX_EPSILON:
        return None
    return float(PLDAccountant().compose(pld_event(mechanism, rounds)).get_epsilon(delta))


def pld_event(mechanism: Mechanism, rounds: int) -> dp_accounting.DpEvent:
    """An event of the same privacy that the PLD accountant knows."""
    if mechanism.kind != "tree_gaussian":
        return mechanism.composed_event(rounds)
    # One participation in a tree of depth d is one Gaussian of sensitivity sqrt(d).
    effective = mechanism.noise_multiplier / math.sqrt(mechanism.steps.bit_length())
    return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(effective), rounds)


@dataclass(frozen=True, slots=True)
class Pricing:
    """How a request is priced: its charge unit, and its stand-alone ε by rounds and δ."""

    price: Callable[[Mechanism], Price]
    standalone_epsilon: Callable[[Mechanism, int, float], float]


@lru_cache(maxsize=4096)
def _price_in_bulk(mechanism: Mechanism) -> Price:
    return _priced(mechanism, _first_curve(mechanism, _divergences_in_bulk))


def _epsilon_in_bulk(mechanism: Mechanism, rounds: int, delta: float) -> float:
    check_count("rounds", rounds, MAX_ROUNDS)
    quick = optimum.least_epsilon(mechanism, rounds, delta, _divergence_in_bulk)
    return quick if quick is not None else _searched(_default_in_bulk(mechanism), rounds, delta)


@lru_cache(maxsize=4096)
def _default_in_bulk(mechanism: Mechanism) -> Curve:
    if not _sampled(mechanism):
        return default_curve(mechanism)
    return _DEFAULT_ORDERS, np.array(_divergences_in_bulk(mechanism, _DEFAULT_ORDERS.tolist()))


@lru_cache(maxsize=65536)
def _divergence_in_bulk(mechanism: Mechanism, order: float) -> float:
    if not _sampled(mechanism):
        return _divergence(mechanism, order)
    value = series.divergence(mechanism.sampling_rate, mechanism.noise_multiplier, order)
    return mechanism.participations * value


def _divergences_in_bulk(mechanism: Mechanism, orders: Sequence[float]) -> tuple[float, ...]:
    return tuple(_divergence_in_bulk(mechanism, order) for order in orders)


EXACT: Final = Pricing(price, standalone_epsilon)
# The same numbers to the last bit, for grids nobody asked for yet; see `accounting.series`.
IN_BULK: Final = Pricing(_price_in_bulk, _epsilon_in_bulk)


def _sampled(mechanism: Mechanism) -> bool:
    """Whether dp-accounting prices it by its series."""
    return mechanism.kind in _POISSON and mechanism.sampling_rate < 1.0


def _divergences(mechanism: Mechanism, orders: Sequence[float]) -> tuple[float, ...]:
    accountant = RdpAccountant(orders, mechanism.neighboring_relation)
    accountant.compose(mechanism.dp_event())
    return tuple(float(value) for value in accountant.rdp)


@lru_cache(maxsize=65536)
def _divergence(mechanism: Mechanism, order: float) -> float:
    """dp-accounting's divergence at one order, nats per charge unit."""
    return _divergences(mechanism, (order,))[0]


@lru_cache(maxsize=4096)
def default_curve(mechanism: Mechanism) -> Curve:
    """Default orders and one charge unit's divergences at them; composition is multiplication."""
    accountant = RdpAccountant(neighboring_relation=mechanism.neighboring_relation)
    accountant.compose(mechanism.dp_event())
    return accountant.orders, accountant.rdp


def _quadrature(q: float, z: float, order: float) -> float:
    """R_a of the Poisson-sampled Gaussian at fractional a, summed in the log domain on one grid.

    The step resolves both the normal density and the mixture's nearest singularity, at a distance
    of π z from the real axis.
    """
    step = min(0.05, 0.25 * z)
    low, high = -14.0, order / z + 14.0
    t = np.arange(math.ceil((high - low) / step) + 1) * step + low
    u = t / z - 1.0 / (2.0 * z * z)
    mixture = np.logaddexp(math.log1p(-q), math.log(q) + u)
    heights = order * mixture - t * t / 2.0
    peak = float(heights.max())
    total = float(np.exp(heights - peak).sum()) * step / math.sqrt(2.0 * math.pi)
    return max(0.0, peak + math.log(total)) / (order - 1.0)
