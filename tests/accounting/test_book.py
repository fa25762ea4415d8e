"""A book decided in memory is, byte for byte, the ledger that was asked request by request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import ledger, quotas
from accounting import tables as stored
from accounting.book import Book
from accounting.tables_scope import PROJECT_QUOTA
from kit.db import Database
from tests.accounting.support import FACTS, NOW, SOON, code_of, export, job_price, open_population

_TABLES = (stored.ENTRY, stored.POPULATION, stored.RESERVATION, stored.QUOTA, PROJECT_QUOTA)


class _Undone(Exception):
    """Ends a transaction without keeping what it wrote."""


def test_a_book_writes_what_the_ledger_would_have_written(opened: Database) -> None:
    with opened.unit_of_work() as session:
        open_population(session, "pop_b")
        for kind, holder in (("researcher", "usr_a"), ("project", "study")):
            ledger.set_quota(
                session,
                population_id="pop_a",
                researcher_id=holder,
                epsilon=2.0,
                actor_id="usr_owner",
                now=NOW,
                kind=kind,  # type: ignore[arg-type]
            )
    before = export(opened)
    one_by_one = _rows_after(opened, _asked_of_the_ledger)
    assert export(opened) == before
    assert _rows_after(opened, _asked_of_a_book) == one_by_one
    kinds = Counter(row["kind"] for row in one_by_one["ledger_entry"])
    assert kinds == {"open": 2, "quota": 2, "reserve": 3, "deny": 1}


def test_a_refused_request_leaves_the_book_as_it_was(opened: Database) -> None:
    exported = export(opened)
    with opened.unit_of_work() as session:
        book = Book(ledger.lock(session, ["pop_a"]))
        before = book.balance("pop_a")
        act = lambda: _reserve(book, "job_1", rounds=100_000)  # noqa: E731
        assert code_of(act) == "budget_exceeded"
        assert book.balance("pop_a") is before
        book.write(session)
    assert export(opened) == exported


def _requests() -> list[tuple[str, str, dict[str, Any]]]:
    """Verb, budget and the rest of four requests to two budgets."""
    facts = FACTS | {"weight": 0.25, "rules": ["one", {"two": 2.5}], "none": None}
    lease = {"lease_expires_at": SOON}

    def job(name: str, who: str, rounds: int) -> dict[str, Any]:
        whose = {"job_id": name, "researcher_id": who, "facts": facts, "now": NOW}
        return whose | {"price": job_price(), "rounds": rounds}

    return [
        ("reserve", "pop_a", job("job_1", "usr_a", 10) | lease),
        ("deny", "pop_a", job("job_2", "usr_b", 7) | {"code": "policy_denied"}),
        ("reserve", "pop_b", job("job_3", "usr_b", 3) | lease),
        ("reserve", "pop_a", job("job_4", "usr_a", 5) | lease | {"project": "study"}),
    ]


def _asked_of_the_ledger(session: Session) -> None:
    for verb, population, given in _requests():
        if verb == "deny":
            ledger.deny(session, population_id=population, **given)
        else:
            ledger.reserve(session, ledger.lock(session, [population])[population], **given)


def _asked_of_a_book(session: Session) -> None:
    book = Book(ledger.lock(session, ["pop_b", "pop_a"]))
    book.know(quotas.quotas(session, "pop_a"))
    for verb, population, given in _requests():
        getattr(book, verb)(population, **given)
    book.write(session)


def _reserve(book: Book, job: str, rounds: int) -> None:
    book.reserve(
        "pop_a",
        job_id=job,
        researcher_id="usr_a",
        price=job_price(),
        rounds=rounds,
        facts=FACTS,
        now=NOW,
        lease_expires_at=SOON,
    )


def _rows_after(
    database: Database, act: Callable[[Session], None]
) -> dict[str, list[dict[str, Any]]]:
    """Every row after `act`, in the order of its key; then `act` is undone."""
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with database.unit_of_work() as session:
            act(session)
            for table in _TABLES:
                rows = [dict(row._mapping) for row in session.execute(sa.select(table))]
                for row in rows:
                    if table is stored.ENTRY:
                        del row["id"]  # a sequence counts on over what was undone
                found[table.name] = sorted(rows, key=_order)
            raise _Undone
    except _Undone:
        return found


def _order(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("at", "population_id", "seq", "id", "job_id", "researcher_id", "project")
    return tuple(f"{row.get(name) or 0:>40}" for name in names)
