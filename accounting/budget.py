"""The terms of a budget: orders, weights, ε and δ, frozen when a population is opened.

Two filters: `rdp`, the weighted one for every mechanism, and `gdp`, exact for unsampled Gaussians
and for nothing else. Everything the filter compares against follows from these terms by exact
arithmetic, so an auditor can rebuild the limits from the opening entry alone. A raise of ε shifts
all limits and never touches weights or δ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from accounting.errors import invalid
from accounting.mechanism import MAX_CLIENTS, Mechanism, check_count, check_number
from privacy_gateway import gdp, rdp

Filter = Literal["rdp", "gdp"]

# Which field of a request made the mechanism what it is.
_CHOSEN_BY: Final = {
    "poisson_gaussian": "sampling",
    "fixed_size_gaussian": "sampling",
    "tree_gaussian": "algorithm.name",
    "banded_gaussian": "algorithm.name",
    "adaptive_clipping_gaussian": "algorithm.clip_norm",
}
MIN_DELTA: Final = 1e-12
MAX_DELTA: Final = 1e-3
MAX_EPSILON: Final = 1e4


@dataclass(frozen=True, slots=True)
class Terms:
    """A budget's frozen terms.

    Attributes:
        epsilon_nano: ε in units of 1e-9.
        delta: δ as the exact shortest text of the double.
        weights: shares of δ, units of 1e-15, sum at most 1e15.
        limits: B(a) in pico-nats, rounded down; a negative limit disables the order.
        orders: the grid; always `rdp.ORDERS` for stored budgets.
    """

    epsilon_nano: int
    delta: str
    weights: tuple[int, ...]
    limits: tuple[int, ...]
    orders: tuple[float, ...] = rdp.ORDERS

    @property
    def filter(self) -> Filter:
        """Which rule admits; frozen with the weights, which say it."""
        return "gdp" if gdp.chosen(self.weights) else "rdp"

    @property
    def epsilon(self) -> float:
        """ε as a double, for people."""
        return self.epsilon_nano / rdp.NANO

    @property
    def delta_float(self) -> float:
        """δ as a double, for accountants that need one."""
        return float(self.delta)

    def raised(self, epsilon_nano: int) -> Terms:
        """The same budget after a grant of `epsilon_nano` more."""
        total = self.epsilon_nano + epsilon_nano
        if not 0 < total <= round(MAX_EPSILON * rdp.NANO):
            raise invalid("epsilon", f"the total must stay within {MAX_EPSILON:g}")
        limits = gdp.limits_of(total, self.delta, self.weights, self.orders)
        return replace(self, epsilon_nano=total, limits=limits)

    def check_mechanism(self, mechanism: Mechanism) -> None:
        """Refuse what the filter cannot add up.

        Raises:
            Refused: `invalid_request` naming the field that chose the mechanism.
        """
        if self.filter == "gdp" and mechanism.kind not in gdp.KINDS:
            raise invalid(
                _CHOSEN_BY[mechanism.kind],
                f"this population's budget pays for unsampled Gaussians alone (filter gdp), not "
                f"for {mechanism.kind}",
                value=mechanism.kind,
            )

    def canonical(self) -> dict[str, Any]:
        """The stored form: integers and strings only."""
        form: dict[str, Any] = {
            "epsilon_nano": self.epsilon_nano,
            "delta": self.delta,
            "weights": list(self.weights),
            "orders": [f"{order:g}" for order in self.orders],
        }
        # Entries written before there was a choice say nothing, and mean the weighted filter.
        return form if self.filter == "rdp" else form | {"filter": self.filter}


def terms_of(
    epsilon_nano: int,
    delta: float,
    weights: Sequence[int] | None = None,
    *,
    orders: Sequence[float] = rdp.ORDERS,
    filter: Filter = "rdp",  # noqa: A002 - the owner's own word for it
) -> Terms:
    """Terms with default or given weights.

    Args:
        epsilon_nano: ε in units of 1e-9, at least 1.
        delta: within [1e-12, 1e-3]; `check_delta` adds the bound by population size.
        weights: shares in units of 1e-15, one an order, sum at most 1e15; the owner's choice at
            creation only.
        orders: the grid, for analysis; the ledger stores the house grid.
        filter: `rdp` for any mechanism, `gdp` for unsampled Gaussians alone.

    Raises:
        Refused: `invalid_request` naming `epsilon`, `delta`, `weights` or `filter`.
    """
    if filter not in get_args(Filter):
        raise invalid("filter", "must be rdp or gdp", value=filter)
    if type(epsilon_nano) is not int or not 0 < epsilon_nano <= round(MAX_EPSILON * rdp.NANO):
        raise invalid("epsilon", f"must be above 0 and at most {MAX_EPSILON:g}")
    text = repr(check_number("delta", delta, MIN_DELTA, MAX_DELTA))
    if filter == "gdp":
        return _gdp_terms(epsilon_nano, text, weights)
    grid = tuple(float(order) for order in orders)
    chosen = rdp.default_weights(epsilon_nano, text, grid) if weights is None else tuple(weights)
    _check_weights(chosen, len(grid))
    limits = rdp.limits(epsilon_nano, text, chosen, grid)
    if max(limits) < 1:
        raise invalid("epsilon", "is too small for this delta: no order has any room")
    return Terms(epsilon_nano, text, chosen, limits, grid)


def single_job_limits(
    epsilon_nano: int, delta: float, orders: Sequence[float] = rdp.ORDERS
) -> tuple[int, ...]:
    """Limits with the full δ at every order: right for one job alone, unsound for a filter.

    Used by the offline calculator's stand-alone answers, never for admission.
    """
    text = repr(check_number("delta", delta, MIN_DELTA, MAX_DELTA))
    return rdp.limits(epsilon_nano, text, (rdp.FEMTO,) * len(orders), orders)


def epsilon_nano_of(epsilon: float, field: str = "epsilon") -> int:
    """ε as whole units of 1e-9, rounded down: a budget never becomes larger by storing it.

    Raises:
        Refused: `invalid_request` naming `field`.
    """
    number = check_number(field, epsilon, 0.0, MAX_EPSILON)
    # The shortest decimal text is what the owner wrote; 0.3 must not become 0.299999999.
    nano = int(Decimal(repr(number)) * rdp.NANO)
    if nano < 1:
        raise invalid(field, "must be above 0", value=number)
    return nano


def check_delta(delta: float, clients: int) -> float:
    """1e-12 ≤ δ ≤ min(1e-3, 1/(10 N)).

    Raises:
        Refused: `invalid_request` naming `delta` or `clients`.
    """
    check_count("clients", clients, MAX_CLIENTS)
    return check_number("delta", delta, MIN_DELTA, min(MAX_DELTA, 1.0 / (10.0 * clients)))


def _gdp_terms(epsilon_nano: int, delta: str, weights: Sequence[int] | None) -> Terms:
    """The exact filter has one coordinate, so there is no δ to share out."""
    if weights is not None:
        raise invalid("weights", "belong to the filter rdp alone")
    limits = gdp.limits(epsilon_nano, delta)
    if max(limits) < 1:
        raise invalid("epsilon", "is too small for this delta: there is no room at all")
    return Terms(epsilon_nano, delta, gdp.WEIGHTS, limits)


def _check_weights(weights: tuple[int, ...], orders: int) -> None:
    proper = len(weights) == orders and all(type(w) is int and w > 0 for w in weights)
    if not proper:
        raise invalid("weights", f"must be {orders} positive integers (units of 1e-15)")
    if sum(weights) > rdp.FEMTO:
        raise invalid("weights", "must not add up to more than 1", value=sum(weights))
