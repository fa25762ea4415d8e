"""Readings of all charges at once: for reports, ordered, and silent where there is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.curve import standalone_epsilon, standalone_epsilon_pld
from accounting.mechanism import Mechanism
from accounting.report import mechanism_of, nonadaptive_epsilons

DELTA = 1e-6
MECHANISMS = [
    Mechanism("poisson_gaussian", 2.0, 1000, 10),
    Mechanism("poisson_gaussian", 2.0, 1000, 10, release="evaluation"),
    Mechanism("poisson_gaussian", 2.0, 1000, 100, clip_count_noise=5.0),
    Mechanism("gaussian", 30.0),
    Mechanism("fixed_size_gaussian", 4.0, 1000, 10),
    Mechanism("tree_gaussian", 30.0, steps=64),
    Mechanism("banded_gaussian", 3.0, 1000, 10, steps=100, bands=10),
]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda one: one.kind)
def test_a_mechanism_comes_back_from_its_ledger_form(mechanism: Mechanism) -> None:
    assert mechanism_of(mechanism.canonical()) == mechanism


def test_nothing_charged_is_nothing_spent() -> None:
    assert nonadaptive_epsilons([], DELTA) == (0.0, 0.0)


@pytest.mark.parametrize("mechanism", MECHANISMS[:4], ids=lambda one: one.kind)
def test_one_mechanism_reads_as_it_does_alone(mechanism: Mechanism) -> None:
    by_rdp, by_pld = nonadaptive_epsilons([(mechanism.canonical(), 20)], DELTA)
    assert by_rdp == pytest.approx(standalone_epsilon(mechanism, 20, DELTA), rel=1e-9)
    assert by_pld == pytest.approx(standalone_epsilon_pld(mechanism, 20, DELTA), rel=1e-9)
    assert by_pld is not None
    assert 0 < by_pld <= by_rdp


@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(1, 200))
def test_more_charges_never_read_as_less(first: int, second: int) -> None:
    one, other = (MECHANISMS[0].canonical(), MECHANISMS[4].canonical())
    alone, _ = nonadaptive_epsilons([(one, first)], DELTA)
    both, silent = nonadaptive_epsilons([(one, first), (other, second)], DELTA)
    apart = nonadaptive_epsilons([(one, first)] + [(other, 1)] * second, DELTA)[0]
    assert alone < both == pytest.approx(apart, rel=1e-9)
    assert silent is None, "a fixed size has no composed reading"


def test_far_beyond_every_budget_there_is_one_reading() -> None:
    loud = Mechanism("gaussian", 0.1)
    by_rdp, by_pld = nonadaptive_epsilons([(loud.canonical(), 10)], DELTA)
    assert by_rdp > 60
    assert by_pld is None
