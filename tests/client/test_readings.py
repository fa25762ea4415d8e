"""RDP ≥ PLD ≥ PRV's lower bound, over ledgers that the ledger's own verbs wrote."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from accounting.curve import price
from accounting.mechanism import Mechanism
from accounting.report import nonadaptive_epsilons
from kit.db import Database
from privacy_gateway import readings
from privacy_gateway.verify import verify
from tests.accounting.support import charge, export, open_population, reserve, settle

SAMPLED = Mechanism("poisson_gaussian", 1.0, 1000, 10)
PLAIN = Mechanism("gaussian", 30.0)
TREE = Mechanism("tree_gaussian", 9.0, steps=100)
ADAPTIVE = Mechanism("adaptive_clipping_gaussian", 1.0, 1000, 50, clip_count_noise=2.5)
FIXED = Mechanism("fixed_size_gaussian", 6.0, 1000, 10)


def spent_on(folder: Path, *mechanisms: Mechanism) -> Any:
    """What a ledger says it charged: five rounds of each, of ten that were reserved."""
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    database.create_all()
    with database.unit_of_work() as session:
        open_population(session, epsilon=50.0)
        for number, mechanism in enumerate(mechanisms):
            job, whole = f"job_{number}", mechanism.kind == "tree_gaussian"
            reserve(session, job, rounds=1 if whole else 10, cost=price(mechanism))
            charge(session, job, 1, 1 if whole else 5)
            settle(session, job)
    report = verify(export(database))
    database.close()
    assert report.ok
    return report.populations["pop_a"]


@pytest.mark.parametrize(
    "mechanisms",
    [(SAMPLED,), (PLAIN,), (TREE,), (SAMPLED, PLAIN, ADAPTIVE, TREE), (PLAIN, PLAIN, SAMPLED)],
    ids=lambda several: "+".join(mechanism.kind for mechanism in several),
)
def test_each_reading_is_below_the_one_before(
    tmp_path: Path, mechanisms: tuple[Mechanism, ...]
) -> None:
    population = spent_on(tmp_path, *mechanisms)
    delta = float(population.delta)
    found = readings.read(population.spent, delta)
    assert found.pld is not None
    assert found.prv_lower is not None
    assert found.prv_upper is not None
    assert found.rdp >= found.pld >= found.prv_lower
    assert found.prv_upper >= found.pld - 0.2
    assert (found.ordered, found.notes) == (True, ())
    # The server's own PLD, from other code, and its RDP on finer orders.
    by_rdp, by_pld = nonadaptive_epsilons(population.spent, delta)
    assert by_pld == pytest.approx(found.pld, abs=2e-3)
    assert by_rdp <= found.rdp * (1 + 1e-9)


def test_the_odometer_is_never_below_the_full_delta_reading(tmp_path: Path) -> None:
    population = spent_on(tmp_path, SAMPLED, PLAIN)
    found = readings.read(population.spent, float(population.delta))
    assert population.epsilon_spent >= found.rdp


def test_a_price_too_low_is_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "rdp_epsilon", lambda *_: 0.01)
    found = readings.read([(SAMPLED.canonical(), 100)], 1e-6)
    assert not found.ordered


def test_what_nobody_composes_is_said(tmp_path: Path) -> None:
    population = spent_on(tmp_path, FIXED, SAMPLED)
    found = readings.read(population.spent, float(population.delta))
    assert (found.pld, found.prv_lower, found.ordered) == (None, None, True)
    assert "fixed size" in found.notes[0]
    large = readings.read([(Mechanism("gaussian", 0.1).canonical(), 100)], 1e-6)
    assert "above 60" in large.notes[0]
    assert readings.read([], 1e-6).rdp == 0.0


def test_absent_accountants_are_told_and_cost_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] in ("dp_accounting", "prv_accountant"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    found = readings.read([(SAMPLED.canonical(), 10)], 1e-6)
    assert found.rdp > 0
    assert (found.pld, found.prv_lower, found.ordered) == (None, None, True)
    assert all("pip install 'privacy-gateway[verify]'" in text for text in found.notes)
    assert len(found.notes) == 2
