"""The replay of one budget entry by entry: what it adds up and which rule it says was broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from accounting import ledger
from kit.db import Database
from privacy_gateway import rdp
from privacy_gateway.prices import Prices
from privacy_gateway.replay import Population
from tests.accounting.support import FACTS, NOW, SOON, charge, job_price, open_population, settle

Leaf = dict[str, Any]


@pytest.fixture
def leaves(sqlite_database: Database) -> list[Leaf]:
    """A budget, a job of a project, two charges of it and what it gave back."""
    with sqlite_database.unit_of_work() as session:
        open_population(session)
        ledger.reserve(
            session,
            ledger.lock(session, ["pop_a"])["pop_a"],
            job_id="job_1",
            researcher_id="usr_a",
            price=job_price(),
            rounds=10,
            facts=FACTS,
            now=NOW,
            lease_expires_at=SOON,
            project="study",
        )
        charge(session, "job_1", 1, 3)
        charge(session, "job_1", 4, 2)
        settle(session, "job_1")
    with sqlite_database.read() as session:
        return [entry.leaf for entry in ledger.entries(session, population="pop_a", after=0)]


def replayed(leaves: list[Leaf]) -> tuple[Population, list[list[tuple[str, str]]]]:
    population = Population(Prices())
    return population, [population.apply(leaf) for leaf in leaves]


def test_an_honest_budget_adds_up(leaves: list[Leaf]) -> None:
    population, found = replayed(leaves)
    assert found == [[]] * 5
    job, share, study = (
        population.jobs["job_1"], population.shares["usr_a"], population.projects["study"],
    )  # fmt: skip
    assert (job.charged, job.closed, job.project, population.rounds_charged) == (
        5,
        True,
        "study",
        5,
    )
    assert share == study
    assert (share.charged, set(share.reserved)) == (job_price().total(5), {0})
    assert population.spent[job.digest] == (job_price().mechanism.canonical(), 5)
    assert population.epsilon_spent == population.epsilon_committed > 0


def _pay(leaf: Leaf, rounds: int) -> None:
    leaf["rounds"], leaf["cost"] = rounds, list(job_price().total(rounds))


FORGED: list[tuple[int, str, str, Callable[[Leaf], object]]] = [
    (0, "terms", "outside its bounds", lambda x: x["terms"].update(delta="0.00010001")),
    (0, "terms", "outside its bounds", lambda x: x["terms"].update(delta="9e-13")),
    (0, "terms", "not shares of one", lambda x: x["terms"]["weights"].__setitem__(3, rdp.FEMTO)),
    (0, "terms", "house grid", lambda x: x["terms"]["orders"].reverse()),
    (1, "rule", "rounds", lambda x: x.update(rounds=0)),
    (1, "price", "priced for 999", lambda x: x["mechanism"].update(clients=999)),
    (2, "rule", "another project", lambda x: x.update(project="other")),
    (2, "rule", "another project", lambda x: x.pop("project")),
    (2, "rule", "another researcher", lambda x: x.update(researcher="usr_b")),
    (2, "rule", "another data set", lambda x: x["facts"].update(dataset="other")),
    (2, "rule", "round_first", lambda x: x.update(round_first=0)),
    (2, "rule", "attempt", lambda x: x.update(attempt="1")),
    (2, "rule", "rounds", lambda x: x.update(rounds=0)),
    (1, "filter", "although no order had room", lambda x: _pay(x, 50_000)),
    (2, "rule", "more than it had reserved", lambda x: _pay(x, 11)),
    (3, "rule", "a round twice", lambda x: x.update(round_first=3)),
    (3, "rule", "lost it", lambda x: x.update(fence=0)),
    (4, "refund", "gave back 1 charged rounds", lambda x: _pay(x, 6)),
    (4, "rule", "other rounds than it had left", lambda x: _pay(x, 4)),
    (4, "rule", "other rounds than it had left", lambda x: x.update(rounds_charged=4)),
]


@pytest.mark.parametrize(("at", "kind", "said", "forge"), FORGED)
def test_what_was_forged_is_told(
    leaves: list[Leaf], at: int, kind: str, said: str, forge: Callable[[Leaf], object]
) -> None:
    forged = copy.deepcopy(leaves)
    forge(forged[at])
    _, found = replayed(forged)
    assert all(findings == [] for findings in found[:at])
    assert any(name == kind and said in text for name, text in found[at]), found[at]


def test_every_charge_of_what_had_no_room_is_told(leaves: list[Leaf]) -> None:
    _pay(leaves[1], 50_000)
    _, found = replayed(leaves)
    said = "no order is within its limit after a charge of job job_1"
    assert [said in dict(findings).get("filter", "") for findings in found] == [
        False, False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("delta", ["0.0001", "1e-12"])
def test_bounds_of_delta_are_inclusive(leaves: list[Leaf], delta: str) -> None:
    leaves[0]["terms"]["delta"] = delta
    leaves[0]["terms"]["weights"][3] = 1
    _, (found, *_) = replayed(leaves[:1])
    assert [name for name, _ in found if name == "terms"] == []
