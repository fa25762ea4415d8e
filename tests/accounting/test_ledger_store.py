"""What the database keeps by itself, what is read back from it, and what races cannot break."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from accounting import ledger
from accounting import tables as stored
from accounting.odometer import spend_report
from kit.db import Database
from privacy_gateway.verify import verify
from tests.accounting.support import (
    FACTS,
    NOW,
    ZERO,
    balance,
    charge,
    code_of,
    export,
    job_price,
    open_population,
    refusal_of,
    reserve,
    times,
)
from tests.reference.audit import audit


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entry SET leaf = '{}' WHERE seq = 1",
        "UPDATE ledger_entry SET hash = hash",
        "DELETE FROM ledger_entry",
    ],
)
def test_entries_cannot_be_changed_or_removed(opened: Database, statement: str) -> None:
    before = export(opened)
    with (
        pytest.raises(sa.exc.DatabaseError, match="append-only"),
        opened.engine.begin() as connection,
    ):
        connection.exec_driver_sql(statement)
    assert export(opened) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq": 4}, "follows the one it seals"),  # a gap
        ({"prev_hash": "f" * 64}, "follows the one it seals"),  # seals nothing that is there
        ({"seq": 1, "kind": "open", "prev_hash": "f" * 64}, "follows the one it seals"),
    ],
)
def test_an_entry_enters_only_behind_the_one_it_seals(
    opened: Database, change: dict[str, object], message: str
) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=10)
    with opened.read() as session:
        last = session.execute(sa.select(stored.ENTRY).order_by(stored.ENTRY.c.seq.desc())).first()
    assert last is not None
    following = dict(last._mapping) | {"seq": 3, "prev_hash": last.hash, "hash": "e" * 64}
    del following["id"]
    with (
        pytest.raises(sa.exc.DatabaseError, match=message),
        opened.unit_of_work() as session,
    ):
        session.execute(sa.insert(stored.ENTRY), following | change)
    with opened.unit_of_work() as session:
        session.execute(sa.insert(stored.ENTRY), following)


def test_a_new_entry_reads_one_entry_however_long_the_chain_is(opened: Database) -> None:
    if opened.is_sqlite:
        pytest.skip("plans that outlive the table's size are PostgreSQL's")
    with opened.unit_of_work() as session:
        for number in range(30):
            reserve(session, f"job_{number}", rounds=1)
        read = sa.text("SELECT pg_stat_get_xact_tuples_returned(:name ::regclass)")
        by_time = session.execute(read, {"name": "ledger_entry_time"}).scalar_one()
        in_order = session.execute(read, {"name": "ledger_entry_seq"}).scalar_one()
    assert by_time == 0
    assert in_order <= 30


def test_the_database_itself_refuses_impossible_rows(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=10)
    for table, change in (
        (stored.RESERVATION, {"rounds_charged": 11}),
        (stored.RESERVATION, {"rounds_charged": -1}),
        (stored.POPULATION, {"head_seq": 0}),
        (stored.POPULATION, {"epsilon_nano": 0}),
        (stored.QUOTA, {"epsilon_nano": 1}),
    ):
        with pytest.raises(sa.exc.IntegrityError), opened.engine.begin() as connection:
            connection.execute(sa.update(table).values(**change))


def test_the_odometer_remembers_every_moment(opened: Database) -> None:
    later = NOW + timedelta(days=1)
    with opened.unit_of_work() as session:
        reserve(session, "job_1")
        ledger.charge(
            session,
            job_id="job_1",
            round_first=1,
            rounds=100,
            attempt=1,
            fence=1,
            facts=FACTS,
            now=later,
        )
    with opened.read() as session:
        present = ledger.odometer(session, "pop_a")
        then = ledger.odometer(session, "pop_a", at=NOW)
        act = lambda: ledger.odometer(session, "pop_a", at=NOW - timedelta(seconds=1))  # noqa: E731
        assert code_of(act) == "not_found"
        report = spend_report(session, "pop_a")
    assert (then.charged, then.reserved) == (ZERO, times(100))
    assert (present.charged, present.reserved) == (times(100), ZERO)
    assert then.epsilon_spent == 0 < then.epsilon_reserved
    assert present.epsilon_spent == then.epsilon_reserved
    assert present.epsilon_remaining == pytest.approx(8.0 - present.epsilon_spent)
    assert report.epsilon_pld is not None
    assert report.epsilon_pld < report.epsilon_rdp < report.epsilon_spent


def test_entries_are_found_by_what_they_are_about(opened: Database) -> None:
    with opened.unit_of_work() as session:
        open_population(session, "pop_b")
        reserve(session, "job_1", researcher_id="usr_a")
        reserve(session, "job_2", population_id="pop_b", researcher_id="usr_b")
        charge(session, "job_1")
    with opened.read() as session:
        find = lambda **by: [e.seq for e in ledger.entries(session, **by)]  # noqa: E731
        assert len(find()) == 5
        assert find(population="pop_a") == [1, 2, 3]
        assert find(populations=["pop_b"]) == [1, 2]
        assert find(researcher="usr_a") == [2, 3]
        assert find(job="job_2") == [2]
        assert find(kind="open") == [1, 1]
        assert find(until=NOW) == []
        assert len(find(since=NOW)) == 5
        first = ledger.entries(session, limit=2)
        rest = ledger.entries(session, after=first[-1].id)
        assert len(first) + len(rest) == 5
        charged = ledger.entry(session, rest[-1].id)
        assert code_of(lambda: ledger.entry(session, 10**6)) == "not_found"
        assert [b.population_id for b in ledger.balances(session)] == ["pop_a", "pop_b"]
        assert ledger.balances(session, owner_id="nobody") == []
    assert charged.leaf["facts"]["policy_revision"] == 3
    assert (charged.round_first, charged.rounds, charged.attempt, charged.fence) == (1, 5, 1, 1)
    assert charged.leaf["event"].startswith("PoissonSampledDpEvent")
    assert charged.leaf["cost"] == list(times(5))


def in_threads(count: int, act: Callable[[int], bool]) -> int:
    """Start together, return how many succeeded."""
    gate = threading.Barrier(count)

    def run(number: int) -> bool:
        gate.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(run, range(count)))


def test_a_hundred_at_once_for_a_budget_of_ten(database: Database) -> None:
    cost = job_price(1000, 35, 1.2)
    with database.unit_of_work() as session:
        open_population(session, epsilon=5.0, delta=1e-6)
        opened = ledger.balance(session, "pop_a")
    rounds = 10**6
    while ledger_capacity(opened, cost.per_round, rounds) < 10:
        rounds = rounds * 9 // 10
    assert ledger_capacity(opened, cost.per_round, rounds) == 10

    def admit_in_one_transaction(number: int) -> None:
        with database.unit_of_work() as session:
            reserve(session, f"job_{number}", rounds=rounds, cost=cost)

    def admit(number: int) -> bool:
        refusal = refusal_of(lambda: admit_in_one_transaction(number))
        assert refusal is None or refusal.code == "budget_exceeded"
        return refusal is None

    assert in_threads(100, admit) == 10
    after = balance(database)
    assert after.reserved == tuple(part * rounds * 10 for part in cost.per_round)
    assert after.head_seq == 11
    assert verify(export(database)).ok


def ledger_capacity(opened: ledger.Balance, per_round: tuple[int, ...], rounds: int) -> int:
    return max(
        limit // (part * rounds) for limit, part in zip(opened.limits, per_round, strict=True)
    )


def test_two_budgets_locked_in_opposite_order_a_hundred_times(database: Database) -> None:
    """Two jobs each, that want both budgets, one the other way round: never a deadlock."""
    with database.unit_of_work() as session:
        open_population(session, "pop_a")
        open_population(session, "pop_b")

    def both(number: int) -> bool:
        names = ["pop_a", "pop_b"] if number % 2 else ["pop_b", "pop_a"]
        for turn in range(50):
            with database.unit_of_work() as session:
                locked = ledger.lock(session, names)
                assert list(locked) == ["pop_a", "pop_b"]
                for name in names:
                    reserve(session, f"job_{number}_{turn}_{name}", population_id=name, rounds=1)
        return True

    assert in_threads(4, both) == 4
    assert audit(database).entries == 2 + 4 * 50 * 2


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_is_years_wrong_spends_nothing_twice(database: Database, years: int) -> None:
    """Time decides when a lease ends and nothing else; order is the chain's, not the clock's."""
    wrong = NOW + timedelta(days=365 * years)
    with database.unit_of_work() as session:
        open_population(session)
        reserve(session, "job_1", rounds=10)
        charge(session, "job_1", 1, 4)
    act = {"job_id": "job_1", "facts": FACTS, "now": wrong}
    with database.unit_of_work() as session:
        again = {"round_first": 1, "rounds": 4, "attempt": 1, "fence": 1}
        assert code_of(lambda: ledger.charge(session, **act, **again)) == "conflict"
        more = ledger.charge(session, **act, **(again | {"round_first": 5}))
        assert more.rounds_charged == 4
    with database.unit_of_work() as session:
        if years < 0:
            assert code_of(lambda: ledger.expire(session, **act)) == "conflict"
            settled = ledger.settle(session, reason="completed", **act)
        else:
            settled = ledger.expire(session, **act)
        assert settled is not None
        assert (settled.rounds, settled.at) == (2, wrong)
        assert ledger.charge(session, **act, **(again | {"round_first": 9})).entry is None
        # The clock is put right: what was closed stays closed, what was spent stays spent.
        assert ledger.expire(session, job_id="job_1", facts=FACTS, now=NOW) is None
        assert charge(session, "job_1", 9, 1, attempt=2) == ledger.Charge(0, None)
    assert (balance(database).charged, balance(database).reserved) == (times(8), ZERO)
    assert audit(database).charged_rounds() == 8
    assert verify(export(database)).ok
