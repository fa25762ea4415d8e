"""The admission filter: pure integer arithmetic, valid under full adaptivity.

Admit iff some order a has charged(a) + reserved(a) + new(a) ≤ B(a). The limits hold shares w_a δ
with Σ w_a ≤ 1: split the transcripts by an order that is still satisfied; on each part the process
equals one halted before that order's limit, which is (ε, w_a δ)-DP; sum. With the full δ at every
order the same rule would let δ grow up to |orders| times. A budget with the GDP filter disables all
orders but one and lives by the same rule. This module must never see a float.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from accounting.budget import Terms
from accounting.errors import price_overflow
from privacy_gateway import gdp, rdp

Vector = tuple[int, ...]


def zero(orders: int = len(rdp.ORDERS)) -> Vector:
    """Nothing spent."""
    return (0,) * orders


def add(first: Sequence[int], second: Sequence[int]) -> Vector:
    """Sum order by order, pico-nats.

    Raises:
        Refused: `price_overflow` where a sum does not fit 64 bits.
    """
    if len(first) != len(second):
        raise ValueError(f"Expected two vectors of one length, not {len(first)} and {len(second)}")
    total = tuple(map(operator.add, first, second))
    if max(total) > rdp.INT64_MAX:
        raise price_overflow("the sum of costs does not fit 64 bits")
    return total


def subtract(first: Sequence[int], second: Sequence[int]) -> Vector:
    """Difference order by order; below zero is a broken ledger, not a refusal."""
    rest = tuple(a - b for a, b in zip(first, second, strict=True))
    if min(rest) < 0:
        raise ArithmeticError("a balance would fall below zero")
    return rest


def admits(
    limits: Sequence[int], charged: Sequence[int], reserved: Sequence[int], new: Sequence[int]
) -> bool:
    """Whether `new` may be reserved. All vectors in pico-nats, one number an order."""
    for limit, spent, held, cost in zip(limits, charged, reserved, new, strict=True):
        if spent + held + cost <= limit:
            return True
    return False


def margin(
    limits: Sequence[int], charged: Sequence[int], reserved: Sequence[int], new: Sequence[int]
) -> float:
    """Best relative room over the active orders after `new`; negative when it does not fit.

    −1 where no order is active.
    """
    shares = [
        (limit - spent - held - cost) / limit
        for limit, spent, held, cost in zip(limits, charged, reserved, new, strict=True)
        if limit > 0
    ]
    return max(shares, default=-1.0)


def room(limits: Sequence[int], charged: Sequence[int], reserved: Sequence[int]) -> Vector:
    """What is left at each order, pico-nats; 0 where the order is used up or disabled."""
    return tuple(
        max(0, limit - spent - held)
        for limit, spent, held in zip(limits, charged, reserved, strict=True)
    )


def epsilon_spent_nano(terms: Terms, spent: Sequence[int]) -> int:
    """The odometer in units of 1e-9, rounded up; 0 for an untouched budget."""
    return gdp.spent_of(terms.epsilon_nano, terms.delta, terms.weights, terms.limits, spent)


def epsilon_remaining_nano(terms: Terms, spent: Sequence[int]) -> int:
    """ε minus the odometer, never below 0, in units of 1e-9."""
    return max(0, terms.epsilon_nano - epsilon_spent_nano(terms, spent))
