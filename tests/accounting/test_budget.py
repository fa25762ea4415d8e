"""The least and the greatest that the terms of a budget may be."""

from __future__ import annotations

import pytest

from accounting.budget import Filter, check_delta, epsilon_nano_of, terms_of
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


def test_the_last_numbers_that_a_budget_may_have_are_allowed() -> None:
    assert epsilon_nano_of(1e-9) == 1
    assert check_delta(1e-4, 1000) == 1e-4
    refusal = refusal_of(lambda: epsilon_nano_of(9e-10))
    assert refusal is not None
    assert [(error.field, error.value) for error in refusal.errors] == [("epsilon", 9e-10)]
