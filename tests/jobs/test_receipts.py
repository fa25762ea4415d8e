"""The words of a receipt: ε in a statement is never less than what was charged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import receipts


@given(st.floats(min_value=1e-9, max_value=1e6))
def test_a_statement_rounds_against_itself(epsilon: float) -> None:
    told = float(receipts._rounded_up(epsilon))
    assert epsilon <= told <= epsilon * 1.0011


@pytest.mark.parametrize(("epsilon", "told"), [(1.23444, "1.235"), (4.99974, "5"), (0.5, "0.5")])
def test_four_digits_are_told(epsilon: float, told: str) -> None:
    assert receipts._rounded_up(epsilon) == told
