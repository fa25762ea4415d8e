"""How many admissions a second does one hot budget take from 16 clients?

Every admission must lock the same row, so a database's own rate of durable single-row commits is
the ceiling of any ledger that commits each by itself; it is measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from accounting import curve, ledger
from accounting.plan import TrainingPlan
from accounting.tables import RESERVATION
from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Sizes, Spread, rushes
from jobs import admission
from kit.db import Database
from tests.support.market import Market

CLIENTS = 16
Act = Callable[[int], object]


def ask(sizes: Sizes) -> Iterator[Table]:
    """One table for both databases."""
    table = Table(
        "admission",
        f"one hot budget, {CLIENTS} clients",
        ("what", "a second", "p50 ms", "p99 ms", "of the commit rate"),
    )
    with (
        markets.scratch() as folder,
        markets.databases(folder) as databases,
        markets.engine() as engine,
    ):
        for name, database in databases.items():
            market = markets.open_market(database, engine, folder)
            _compare(table, name, market, sizes)
            _check(market)
        if markets.POSTGRESQL not in databases:
            table.notes.append("no PostgreSQL on this machine")
    table.notes.append(
        "durable: WAL with synchronous=FULL, fsync on; each admission is a commit of its own; "
        "after the run the balance equals the sum of all reservations, none too many; "
        "floor ≥ 100/s with p99 ≤ 1 s"
    )
    yield table


def _compare(table: Table, name: str, market: Market, sizes: Sizes) -> None:
    commit, close = _single_rows(market.database)
    ceiling, taken = rushes(1, commit, sizes)
    close()
    _row(table, f"{name}: one row a commit, 1 client", ceiling, taken, ceiling)
    acts = {"ledger.reserve": _reserve(market), "admission.submit": _submit(market)}
    for what, act in acts.items():
        rate, taken = rushes(CLIENTS, act, sizes)
        _row(table, f"{name}: {what}", rate, taken, ceiling)


def _single_rows(database: Database) -> tuple[Act, Callable[[], None]]:
    """Insert and commit on the driver's own connection, without anything of ours."""
    with database.unit_of_work() as session:
        session.execute(sa.text("CREATE TABLE probe (number BIGINT)"))
    connection: Any = database.engine.raw_connection()
    if not database.is_sqlite:
        connection.driver_connection.autocommit = True
    mark = "?" if database.is_sqlite else "%s"
    cursor = connection.cursor()

    def close() -> None:
        cursor.close()
        connection.invalidate()

    return lambda number: cursor.execute(f"INSERT INTO probe VALUES ({mark})", (number,)), close


def _reserve(market: Market) -> Act:
    """Lock, filter, reservation, entry, commit: the ledger without policy and job."""
    price = curve.price(TrainingPlan(1000, 2, 1, 50.0).mechanism)

    def act(number: int) -> object:
        now = market.clock()
        with market.database.unit_of_work() as session:
            balance = ledger.lock(session, [market.population_id])[market.population_id]
            return ledger.reserve(
                session,
                balance,
                job_id=f"job_{next(markets.SERIAL):012d}",
                researcher_id=f"usr_{number:02d}",
                price=price,
                rounds=10,
                facts={"actor": f"usr_{number:02d}"},
                now=now,
                lease_expires_at=now + timedelta(hours=1),
            )

    return act


def _submit(market: Market) -> Act:
    """The whole use case: price, policy, lock, everything written, commit."""
    request = markets.cheap(market.dataset_id)
    people = [markets.researcher(number) for number in range(CLIENTS)]

    def act(number: int) -> object:
        key = f"key-{next(markets.SERIAL)}"
        return admission.submit(market.services, people[number], request, key)

    return act


def _check(market: Market) -> None:
    """The balance holds what was reserved, to the last unit.

    Raises:
        RuntimeError: it does not, and the figures above mean nothing.
    """
    query = sa.select(RESERVATION.c.per_round, RESERVATION.c.rounds_reserved)
    with market.database.read() as session:
        rows = session.execute(query).all()
    held = [tuple(cost * rounds for cost in per_round) for per_round, rounds in rows]
    if tuple(map(sum, zip(*held, strict=True))) != market.balance().reserved:
        raise RuntimeError("the balance is not the sum of its reservations")


def _row(table: Table, what: str, rate: float, taken: Spread, ceiling: float) -> None:
    p50, p99 = taken.median * 1e3, taken.percentile(99) * 1e3
    table.add(what, rate, p50, p99, rate / ceiling)
