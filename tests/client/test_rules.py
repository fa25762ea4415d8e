"""Rules of a ledger that only a forger breaks: each broken once, in a chain sealed anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accounting import ledger
from accounting.curve import price
from accounting.mechanism import Mechanism
from accounting.plan import TrainingPlan
from kit.db import Database
from privacy_gateway.verify import verify
from tests.accounting.support import NOW, charge, export, open_population, reserve
from tests.client.forgeries import Leaf, sealed_anew

Act = Callable[[Any], object]
OWNER: dict[str, Any] = {"population_id": "pop_a", "actor_id": "usr_owner", "now": NOW}
TREE = price(Mechanism("tree_gaussian", 9.0, steps=100))
EXACT = price(Mechanism("gaussian", 30.0))
FREE = price(TrainingPlan(1000, 1, 1, 0.01, release="evaluation", public=True).mechanism)


def written(folder: Path, *acts: Act, **options: Any) -> list[bytes]:
    """The export of a population that these were done to."""
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    database.create_all()
    with database.unit_of_work() as session:
        open_population(session, **options)
        for act in acts:
            act(session)
    lines = export(database)
    database.close()
    return lines


def raised(session: Any) -> object:
    return ledger.grant(session, epsilon=1.0, reason="more", approved_by="usr_second", **OWNER)


def let_go(session: Any) -> object:
    return ledger.set_second_person(
        session, needed=False, reason="alone", approved_by="usr_second", **OWNER
    )


def thawed(session: Any) -> None:
    ledger.freeze(session, reason="why", **OWNER)
    ledger.unfreeze(session, reason="why", **OWNER)


def shared(session: Any) -> object:
    return ledger.set_quota(session, researcher_id="usr_r", epsilon=4.0, **OWNER)


def held(session: Any) -> object:
    return reserve(session, "job_1", rounds=10)


def charged(session: Any) -> object:
    return charge(session, "job_1", 1, 5)


def ran_whole(session: Any) -> None:
    reserve(session, "job_1", rounds=2, cost=TREE)
    charge(session, "job_1", 1, 2)


def ran_exactly(session: Any) -> None:
    reserve(session, "job_0", rounds=5, cost=FREE)
    reserve(session, "job_1", rounds=2, cost=EXACT)


def on(kind: str, change: Callable[[Leaf], object]) -> Callable[[Leaf], None]:
    """The change of every entry of a kind."""

    def changed(leaf: Leaf) -> None:
        if leaf["kind"] == kind:
            change(leaf)

    return changed


def alone(leaf: Leaf) -> None:
    leaf["approved_by"] = leaf["actor"]


def never_thawed(after: int) -> Callable[[Leaf], None]:
    """The thaw never happened, and no entry after the freeze, which is entry `after`, tells it."""

    def change(leaf: Leaf) -> None:
        if leaf["kind"] == "unfreeze":
            leaf["kind"] = "freeze"
        leaf["balance"]["frozen"] = leaf["seq"] >= after

    return change


def half(leaf: Leaf) -> None:
    leaf["rounds"] = 1
    leaf["cost"] = leaf["per_round"]


def sampled(leaf: Leaf) -> None:
    leaf["mechanism"] |= {"kind": "poisson_gaussian", "clients": 1000, "clients_per_round": 10}


def little(leaf: Leaf) -> None:
    leaf["quota"]["epsilon_nano"] = 1_000_000


TWO = {"second_person": True}
CASES = [
    ([raised], TWO, on("grant", alone), "a grant was made without the second person it needs"),
    ([let_go], TWO, on("note", alone), "one person let the second person go"),
    ([thawed, held], {}, never_thawed(2), "job job_1 reserved while frozen"),
    ([held, thawed, charged], {}, never_thawed(3), "job job_1 charged while frozen"),
    ([shared, held], {}, on("quota", little), "job job_1 was admitted beyond a quota"),
    ([ran_whole], {"epsilon": 30.0}, on("charge", half), "a part of what is charged whole"),
    (
        [ran_exactly],
        {"epsilon": 30.0, "filter": "gdp"},
        on("reserve", sampled),
        "the filter gdp cannot add up a poisson_gaussian",
    ),
]


@pytest.mark.parametrize(("acts", "options", "change", "told"), CASES, ids=[c[-1] for c in CASES])
def test_a_broken_rule_is_named(
    tmp_path: Path,
    acts: list[Act],
    options: dict[str, Any],
    change: Callable[[Leaf], None],
    told: str,
) -> None:
    lines = written(tmp_path, *acts, **options)
    assert verify(lines).ok

    forged = sealed_anew(lines, change)

    assert forged != lines
    details = [problem.detail for problem in verify(forged).problems]
    assert any(told in detail for detail in details), details
