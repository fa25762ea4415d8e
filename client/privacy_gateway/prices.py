"""Prices of an export, recomputed by an engine that did not charge them, each of them once.

A ledger names a handful of mechanisms a million times over, so what was found right is remembered
by the very text it was found for. It must never take a stated price, cost or digest on trust, and
never compute with a number that no plan can have: one price could take all memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from privacy_gateway import canonical, rdp

Vector = tuple[int, ...]
Finding = tuple[str, str]

RELATIVE_TOLERANCE: Final = 1e-6
# Prices are rounded up, so at most one unit too much and never too little; a fifth for the digits
# that are lost near 1, once for each use of a client's data.
UNITS_TOLERANCE: Final = 0.2
MAX_COUNT: Final = 10**9

_NOISES: Final = ("noise_multiplier", "clip_count_noise")
_COUNTS: Final = ("clients", "clients_per_round", "steps", "bands")
_REMEMBERED: Final = 4096
_INTEGERS: Final = {int}


class Prices:
    """Recomputed curves by mechanism digest; one recomputation serves a whole export."""

    def __init__(self) -> None:
        self._curves: dict[str, tuple[float, ...]] = {}
        self._right: set[tuple[str, str, str]] = set()
        self._costs: dict[tuple[str, int], tuple[list[int], list[int], Vector]] = {}

    @property
    def mechanisms(self) -> int:
        """How many different mechanisms were recomputed."""
        return len(self._curves)

    def findings(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        """Whether a stated price is that of the stated mechanism."""
        mechanism, digest, stated = leaf["mechanism"], leaf["mechanism_digest"], leaf["per_round"]
        # Texts, not values: to Python, true equals 1.
        known = (digest, repr(mechanism), repr(stated))
        if known in self._right:
            return
        found = list(self._judge(mechanism, digest, stated))
        if not found:
            _room(self._right)
            self._right.add(known)
        yield from found

    def cost(self, leaf: Mapping[str, Any]) -> Vector:
        """The stated cost vector, if it is the stated price times the rounds.

        Raises:
            ValueError: it is not.
        """
        price, cost, rounds = leaf["per_round"], leaf["cost"], leaf["rounds"]
        if type(rounds) is not int:
            raise ValueError("rounds is no integer")
        key = (leaf["mechanism_digest"], rounds)
        known = self._costs.get(key)
        if known is not None and known[0] == price and known[1] == cost:
            return known[2]
        if not _INTEGERS.issuperset(map(type, price)):
            raise ValueError("the price is no vector of integers")
        vector = tuple([part * rounds for part in price])
        if list(vector) != cost:
            raise ValueError("the cost is not the price times the rounds")
        _room(self._costs)
        self._costs[key] = (price, cost, vector)
        return vector

    def adds_up(self, leaf: Mapping[str, Any]) -> bool:
        """Whether the entry has no cost, or the one that its price and rounds come to."""
        try:
            return "cost" not in leaf or bool(self.cost(leaf))
        except (LookupError, TypeError, ValueError):
            return False

    def _judge(self, mechanism: Any, digest: str, per_round: list[int]) -> Iterator[Finding]:
        """Digest, bounds and the price at every order, as if seen for the first time."""
        if canonical.digest(mechanism) != digest:
            yield "price", "the mechanism is not the one its digest names"
            return
        if digest not in self._curves:
            try:
                _check_mechanism(mechanism)
                self._curves[digest] = rdp.curve(mechanism)
            except (ValueError, ArithmeticError) as error:
                yield "price", f"the mechanism cannot be priced: {error}"
                return
        least = 0 if mechanism["kind"] == rdp.FREE else 1
        units = UNITS_TOLERANCE * rdp.participations(mechanism)
        for order, stated, nats in zip(rdp.ORDERS, per_round, self._curves[digest], strict=True):
            exact = nats * rdp.PICO
            slack = RELATIVE_TOLERANCE * exact + units
            # Only what opens no person's data is free.
            if not max(least, exact - slack) <= stated <= exact + slack + 1:
                yield (
                    "price",
                    f"order {order:g}: {stated} pico-nats a round stated, {exact:.1f} recomputed",
                )
                return


def whole(value: Any, name: str, most: int) -> int:
    """A whole number from 1 to `most`; a bool is none.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} is not a whole number from 1 to {most}")
    return value


def _check_mechanism(mechanism: Mapping[str, Any]) -> None:
    """ValueError for what no plan can have."""
    if mechanism.get("kind") == rdp.FREE and mechanism.get("release") != "evaluation":
        raise ValueError(f"no {mechanism.get('release')} is free")
    for name in _NOISES:
        if name in mechanism and not 0.01 <= float(mechanism[name]) <= 1e4:
            raise ValueError(f"{name} {mechanism[name]} is outside 0.01 to 1e4")
    for name in _COUNTS:
        if name in mechanism:
            whole(mechanism[name], name, MAX_COUNT)


def _room(memory: set[Any] | dict[Any, Any]) -> None:
    """Forget everything where a hostile export has filled the memory."""
    if len(memory) >= _REMEMBERED:
        memory.clear()
