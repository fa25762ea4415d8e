"""What a share remembers, and what the ledger says of its setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from accounting import filter as admission
from accounting import ledger, quotas
from accounting.quotas import Kind, QuotaBalance
from kit.db import Database
from privacy_gateway import rdp
from tests.accounting.support import (
    NOW,
    balance,
    charge,
    job_price,
    open_population,
    refusal_of,
    reserve,
    times,
)


def _set(
    session: Any, epsilon: float, kind: Kind = "researcher", holder: str = "usr_a", **more: Any
) -> ledger.Entry:
    return ledger.set_quota(
        session,
        population_id="pop_a",
        researcher_id=holder,
        epsilon=epsilon,
        actor_id="usr_owner",
        now=NOW,
        kind=kind,
        **more,
    )


@pytest.mark.parametrize("kind", ["researcher", "project"])
def test_a_share_is_read_back_as_it_was_set(opened: Database, kind: Kind) -> None:
    other: Kind = "project" if kind == "researcher" else "researcher"
    with opened.unit_of_work() as session:
        first = _set(session, 1.0, kind)
        second = _set(session, 2.5, kind, reason="more people")
        share = ledger.quota(session, "pop_a", "usr_a", kind=kind)
        nobody = ledger.quota(session, "pop_a", "usr_a", kind=other)
        everybody = quotas.quotas(session, "pop_a")
    assert share.terms is not None
    assert (share.epsilon, share.terms.delta) == (2.5, balance(opened).terms.delta)
    assert (share.charged, share.reserved) == (admission.zero(), admission.zero())
    assert everybody == [share]
    assert nobody == QuotaBalance("pop_a", "usr_a", None, share.charged, share.reserved, other)
    assert nobody.limits == (rdp.INT64_MAX,) * len(rdp.ORDERS)
    for entry, epsilon, reason in ((first, 1.0, "quota set"), (second, 2.5, "more people")):
        said = {name: entry.leaf.get(name) for name in ("kind", "actor", "reason", kind, other)}
        assert said == {
            "kind": "quota", "actor": "usr_owner", "reason": reason, kind: "usr_a", other: None,
        }  # fmt: skip
        assert entry.leaf["quota"]["epsilon_nano"] == epsilon * rdp.NANO
        assert len(entry.leaf["quota"]["weights"]) == len(rdp.ORDERS)


def test_a_share_that_is_set_anew_keeps_what_was_spent_and_what_is_held(opened: Database) -> None:
    with opened.unit_of_work() as session:
        open_population(session, "pop_b")
        reserve(session, "job_1", rounds=7, researcher_id="usr_a")
        reserve(session, "job_2", rounds=3, researcher_id="usr_a", population_id="pop_b")
        _set(session, 1.0)
        _set(session, 3.0)
        share = ledger.quota(session, "pop_a", "usr_a")
        there = ledger.quota(session, "pop_b", "usr_a")
    assert (share.charged, share.reserved) == (admission.zero(), times(7))
    assert (there.reserved, there.terms) == (job_price().total(3), None)


def test_shares_are_listed_researchers_first_then_projects_each_by_name(opened: Database) -> None:
    with opened.unit_of_work() as session:
        kinds: tuple[Kind, ...] = ("project", "researcher")
        for kind in kinds:
            for holder in ("b", "a"):
                _set(session, 1.0, kind, holder)
        # PostgreSQL then reads tables as small as these in the order of writing.
        session.execute(sa.text("ANALYZE"))
        listed = [(one.kind, one.holder_id) for one in quotas.quotas(session, "pop_a")]
    assert listed == [
        ("researcher", "a"), ("researcher", "b"), ("project", "a"), ("project", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "holder"), [("researcher", "usr_r"), ("project", "study")])
def test_a_share_too_small_for_any_job_is_told_with_its_holder(
    opened: Database, kind: Kind, holder: str
) -> None:
    with opened.unit_of_work() as session:
        _set(session, 0.1, kind, holder=holder)
        refusal = refusal_of(lambda: reserve(session, "job_1", project="study"))
    assert refusal is not None
    assert refusal.code == "quota_exceeded"
    assert refusal.facts == {kind: holder, "epsilon": 0.1, "epsilon_spent": 0.0}


@pytest.mark.parametrize(
    "act",
    [
        lambda session: reserve(session, "job_2", rounds=10, project="study"),
        lambda session: charge(session, "job_1"),
        lambda session: _set(session, 3.0, holder="usr_r"),
    ],
    ids=["reserve", "charge", "set"],
)
def test_a_budget_is_read_once_for_itself_and_its_shares(
    sqlite_database: Database, act: Callable[[Any], object]
) -> None:
    """Whoever waits for the budget's lock waits for every further question too."""
    asked: list[str] = []
    with sqlite_database.unit_of_work() as session:
        open_population(session)
        _set(session, 2.0, holder="usr_r")
        _set(session, 2.0, "project", "study")
        reserve(session, "job_1", rounds=10, project="study")
        driver: Any = session.connection().connection.driver_connection
        driver.set_trace_callback(asked.append)
        act(session)
        driver.set_trace_callback(None)
    reads = [text for text in asked if text.startswith("SELECT")]
    assert sum("FROM population" in text for text in reads) == 1 < len(reads)
