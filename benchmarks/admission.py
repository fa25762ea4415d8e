"""How many admissions a second do 16 clients get, on one hot budget and on 16 of them?

Three acts, each alone and through the group-commit writer: `reserve` is the ledger's admission, the
budget's lock, the filter, reservation, entry, balance and quota; `settle` is everything that an
admission stores (idempotency key, decision, reservation, entry, balance, quota, job, three events,
outbox row) with every check under the lock, for attempts that were judged before; `submit` is the
whole use case, policy and price included. Alone, every admission is a commit under the budget's
lock, so a database's own rate of durable single-row commits is its ceiling; it is measured in the
same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import curve, ledger, posting
from accounting.book import Book
from accounting.plan import TrainingPlan
from accounting.tables import RESERVATION
from benchmarks import history
from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Sizes, Spread, rushes
from jobs import admission, judgement, situation
from jobs.attempt import Attempt
from kit import prepared
from kit.db import Database
from kit.group import GroupCommit
from privacy_gateway import canonical
from tests.support.market import Market

CLIENTS = 16
HISTORY = 100_000
LONG_HISTORY = 1_000_000
COLUMNS = ("what", "budgets", "a second", "p50 ms", "p99 ms", "of the commit rate", "CPU ms")
Act = Callable[[int], object]


@dataclass(frozen=True)
class Asking:
    """A reservation that is asked of the ledger alone."""

    population_id: str
    job_id: str
    researcher_id: str


@dataclass(frozen=True)
class Ground:
    """One database with its markets, seen with and without a writer, and its commit rate."""

    name: str
    alone: Sequence[Market]
    grouped: Sequence[Market]
    reserving: GroupCommit[Asking, str]
    ceiling: float
    ceiling_taken: Spread


def ask(sizes: Sizes) -> Iterator[Table]:
    """One table for the paths and budgets, one for a long history."""
    yield _paths(sizes)
    yield _aged(sizes)


def _paths(sizes: Sizes) -> Table:
    table = Table("admission", f"{CLIENTS} clients on one budget, and on one each", COLUMNS)
    for ground in _grounds(CLIENTS, sizes):
        _ceiling(table, ground)
        for budgets in (1, CLIENTS):
            alone, grouped = ground.alone[:budgets], ground.grouped[:budgets]
            acts = {
                "reserve": _reserve(alone),
                "reserve, grouped": _reserve_grouped(ground.reserving, alone),
                "settle": _settle(alone),
                "settle, grouped": _settle(grouped),
                "submit": _submit(alone),
                "submit, grouped": _submit(grouped),
            }
            for what, act in acts.items():
                _row(table, ground, what, budgets, act, sizes)
        _check(ground.alone)
    table.notes.append(
        "durable: WAL with synchronous=FULL, fsync on; after the run each balance equals the sum "
        "of its reservations, none too many; targets on one budget: reserve and submit ≥ 100/s, "
        "p99 ≤ 1 s; grouped reserve and settle ≥ 1,000/s"
    )
    return table


def _aged(sizes: Sizes) -> Table:
    """The same on a budget with a past."""
    count = LONG_HISTORY if sizes.full else HISTORY // 50 if sizes.quick else HISTORY
    table = Table("admission-history", f"one budget with {count:,} earlier jobs", COLUMNS)
    for ground in _grounds(1, sizes):
        history.age(ground.alone[0], count)
        for what, act in {
            "submit": _submit(ground.alone),
            "submit, grouped": _submit(ground.grouped),
        }.items():
            _row(table, ground, what, 1, act, sizes)
    return table


def _grounds(budgets: int, sizes: Sizes) -> Iterator[Ground]:
    """Each database in turn, with so many populations."""
    with (
        markets.scratch() as folder,
        markets.databases(folder) as databases,
        markets.engine() as engine,
    ):
        for name, database in databases.items():
            opened = [markets.open_market(database, engine, folder) for _ in range(budgets)]
            commit, close = _single_rows(database)
            ceiling, taken = rushes(1, commit, sizes)
            close()
            with _writer(opened) as grouped, _reserver(opened[0]) as reserving:
                yield Ground(name, opened, grouped, reserving, ceiling, taken)


@contextmanager
def _writer(opened: Sequence[Market]) -> Iterator[list[Market]]:
    """The markets behind one group-commit writer."""
    services = opened[0].services
    settings = services.settings.model_copy(update={"group_commit": True})
    together = admission.with_writer(replace(services, settings=settings))
    try:
        yield [replace(market, services=together) for market in opened]
    finally:
        if together.writer is not None:
            together.writer.close()


@contextmanager
def _reserver(market: Market) -> Iterator[GroupCommit[Asking, str]]:
    """A group-commit writer of the ledger alone: no policy, no job, no idempotency key."""

    def work(session: Session, group: Sequence[Asking]) -> list[str | Exception]:
        now = market.clock()
        people = {(each.population_id, each.researcher_id) for each in group}
        balances, rows = prepared.ask(
            session,
            posting.locking({population_id for population_id, _ in people}),
            situation.asking_pasts(session, people),
        )
        book = Book(balances)
        book.know(past.share for past in situation.pasts(balances, people, rows).values())
        for each in group:
            book.reserve(each.population_id, **_reservation(each.job_id, each.researcher_id, now))
        book.write(session)
        return [each.job_id for each in group]

    writer = GroupCommit[Asking, str](market.database, work)
    try:
        yield writer
    finally:
        writer.close()


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


def _reservation(job_id: str, researcher_id: str, now: datetime) -> dict[str, Any]:
    """What is asked of the ledger."""
    return {
        "job_id": job_id,
        "researcher_id": researcher_id,
        "price": curve.price(TrainingPlan(1000, 2, 1, 50.0).mechanism),
        "rounds": 10,
        "facts": {"actor": researcher_id},
        "now": now,
        "lease_expires_at": now + timedelta(hours=1),
    }


def _reserve(opened: Sequence[Market]) -> Act:
    """Lock, filter, reservation, entry, commit: the ledger without policy and job."""

    def act(number: int) -> object:
        market = opened[number % len(opened)]
        job_id, who = f"job_{next(markets.SERIAL):012d}", f"usr_{number:02d}"
        with market.database.unit_of_work() as session:
            balance = ledger.lock(session, [market.population_id])[market.population_id]
            return ledger.reserve(session, balance, **_reservation(job_id, who, market.clock()))

    return act


def _reserve_grouped(writer: GroupCommit[Asking, str], opened: Sequence[Market]) -> Act:
    """The same, many in one commit."""

    def act(number: int) -> object:
        population_id = opened[number % len(opened)].population_id
        job_id = f"job_{next(markets.SERIAL):012d}"
        return writer.submit(Asking(population_id, job_id, f"usr_{number:02d}"))

    return act


def _settle(opened: Sequence[Market]) -> Act:
    """Everything that is stored, and every check under the lock, of attempts judged before."""
    judged = [attempt(opened[number % len(opened)], number) for number in range(CLIENTS)]

    def act(number: int) -> object:
        services = opened[number % len(opened)].services
        attempt = replace(
            judged[number],
            key=f"key-{next(markets.SERIAL)}",
            job_id=services.new_id("job"),
        )
        return admission.committed(services, attempt)

    return act


def attempt(market: Market, number: int) -> Attempt:
    services, me = market.services, markets.researcher(number)
    asked = markets.cheap(market.dataset_id)
    with market.database.read() as session:
        seen = situation.read(session, me, market.dataset_id)
    proposal = judgement.propose(services.settings, seen, asked)
    text = canonical.dumps(asked.model_dump(mode="json"), floats=True)
    return Attempt(
        principal=me,
        request=asked,
        request_text=text.decode(),
        request_hash=canonical.digest_of(text),
        key="key",
        job_id="job",
        first=judgement.judge(services, me, seen, proposal, request_id="job", now=services.clock()),
    )


def _submit(opened: Sequence[Market]) -> Act:
    """The whole use case: price, policy, lock, everything written, commit."""
    requests = [markets.cheap(market.dataset_id) for market in opened]
    people = [markets.researcher(number) for number in range(CLIENTS)]

    def act(number: int) -> object:
        market, request = opened[number % len(opened)], requests[number % len(opened)]
        key = f"key-{next(markets.SERIAL)}"
        return admission.submit(market.services, people[number], request, key)

    return act


def _check(opened: Sequence[Market]) -> None:
    """Each balance holds what was reserved, to the last unit.

    Raises:
        RuntimeError: it does not, and the figures above mean nothing.
    """
    for market in opened:
        query = sa.select(RESERVATION.c.per_round, RESERVATION.c.rounds_reserved).where(
            RESERVATION.c.population_id == market.population_id
        )
        with market.database.read() as session:
            rows = session.execute(query).all()
        held = [tuple(cost * rounds for cost in per_round) for per_round, rounds in rows]
        if tuple(map(sum, zip(*held, strict=True))) != market.balance().reserved:
            raise RuntimeError("the balance is not the sum of its reservations")


def _row(table: Table, ground: Ground, what: str, budgets: int, act: Act, sizes: Sizes) -> None:
    """Measure an act; processor time of this process an act, which a busy machine changes least."""
    before = time.process_time()
    rate, taken = rushes(CLIENTS, act, sizes)
    spent = (time.process_time() - before) / len(taken.durations) * 1e3
    p50, p99 = taken.median * 1e3, taken.percentile(99) * 1e3
    name = f"{ground.name}: {what}"
    table.add(name, budgets, rate, p50, p99, rate / ground.ceiling, spent)


def _ceiling(table: Table, ground: Ground) -> None:
    taken = ground.ceiling_taken
    p50, p99 = taken.median * 1e3, taken.percentile(99) * 1e3
    table.add(f"{ground.name}: one row a commit, 1 client", "", ground.ceiling, p50, p99, 1.0, "")
