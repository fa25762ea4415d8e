"""The terms of a budget: what room the least of them has."""

from __future__ import annotations

import pytest

from accounting.budget import Filter, terms_of
from tests.accounting.support import refusal_of


@pytest.mark.parametrize(
    ("room", "epsilon_nano", "delta", "rule"),
    [
        (0, 6 * 10**7, 2.2424495044e-6, "rdp"),
        (1, 6 * 10**7, 2.2424495046e-6, "rdp"),
        (0, 1, 3.9e-7, "gdp"),
        (1, 1, 4.0e-7, "gdp"),
    ],
)
def test_a_budget_has_room_for_one_unit_at_least(
    room: int, epsilon_nano: int, delta: float, rule: Filter
) -> None:
    act = lambda: terms_of(epsilon_nano, delta, filter=rule)  # noqa: E731
    if room:
        assert max(act().limits) == room
    else:
        refusal = refusal_of(act)
        assert refusal is not None
        assert [error.field for error in refusal.errors] == ["epsilon"]
