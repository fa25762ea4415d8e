"""Transactions on both databases: commit at the edge, writers one after the other."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kit.db import Database, FifoLock

_META = sa.MetaData()
_COUNTER = sa.Table(
    "kit_counter", _META, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
)


@pytest.fixture
def counter(database: Database) -> Database:
    _META.create_all(database.engine)
    with database.unit_of_work() as session:
        session.execute(sa.insert(_COUNTER).values(id=1, n=0))
    return database


def _value(database: Database) -> int:
    with database.read() as session:
        return int(session.scalar(sa.select(_COUNTER.c.n)) or 0)


def test_an_exception_leaves_nothing_behind(counter: Database) -> None:
    with pytest.raises(KeyError), counter.unit_of_work() as session:
        session.execute(sa.update(_COUNTER).values(n=7))
        raise KeyError
    assert _value(counter) == 0


def test_read_check_write_is_atomic_under_contention(counter: Database) -> None:
    """Without BEGIN IMMEDIATE every concurrent reader of the old value would pass the check."""

    def admit(_: int) -> None:
        with counter.unit_of_work() as session:
            row = sa.select(_COUNTER.c.n).with_for_update()
            if session.scalar(row) < 10:
                session.execute(sa.update(_COUNTER).values(n=_COUNTER.c.n + 1))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(admit, range(100)))
    assert _value(counter) == 10


def test_a_reader_cannot_leave_a_change(counter: Database) -> None:
    # SQLite's writes in a reading transaction are rolled back; PostgreSQL does not take them.
    refused = nullcontext() if counter.is_sqlite else pytest.raises(sa.exc.InternalError)
    with refused, counter.read() as session:
        session.execute(sa.update(_COUNTER).values(n=5))
    assert _value(counter) == 0


def test_a_reader_sees_one_snapshot(counter: Database) -> None:
    with counter.read() as session:
        assert session.scalar(sa.select(_COUNTER.c.n)) == 0
        with counter.unit_of_work() as writing:
            writing.execute(sa.update(_COUNTER).values(n=5))
        assert session.scalar(sa.select(_COUNTER.c.n)) == 0
    assert _value(counter) == 5


def test_a_writer_inherits_nothing_of_a_reader(postgresql_database: Database) -> None:
    """The pool hands the same connection to both."""
    said = []
    for transaction in (postgresql_database.read, postgresql_database.unit_of_work):
        with transaction() as session:
            names = ("transaction_isolation", "transaction_read_only")
            said.append([session.scalar(sa.text(f"SHOW {name}")) for name in names])
    assert said == [["repeatable read", "on"], ["read committed", "off"]]


def test_waiters_are_served_in_the_order_of_their_coming() -> None:
    lock, order = FifoLock(), []
    queued: list[Callable[[], None]] = []
    with lock:
        for number in range(5):
            waiting = threading.Event()

            def enter(number: int = number, waiting: threading.Event = waiting) -> None:
                waiting.set()
                with lock:
                    order.append(number)

            thread = threading.Thread(target=enter)
            thread.start()
            waiting.wait()
            while len(lock._waiting) <= number:
                pass
            queued.append(thread.join)
    for join in queued:
        join()
    assert order == list(range(5))


def test_nobody_else_of_the_machine_can_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        database = Database(f"sqlite:///{tmp_path / 'gateway.sqlite3'}")
        with database.unit_of_work() as session:
            session.execute(sa.text("CREATE TABLE secret (number INTEGER)"))
            made = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        database.close()
    finally:
        os.umask(before)
    assert made
    assert set(made.values()) == {0o600}, made


def test_what_is_deleted_is_overwritten_whatever_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's SQLite does so by itself; this one would not."""
    connect = sqlite3.dbapi2.connect

    def careless(*given: Any, **options: Any) -> sqlite3.Connection:
        made = connect(*given, **options)
        made.execute("PRAGMA secure_delete=OFF")
        return made

    monkeypatch.setattr(sqlite3.dbapi2, "connect", careless)
    database = Database(f"sqlite:///{tmp_path}/file.sqlite")
    for statement in (
        "CREATE TABLE kept (key BLOB)",
        "INSERT INTO kept VALUES (CAST(replace(hex(zeroblob(9000)), '00', 'secret ') AS BLOB))",
        "DELETE FROM kept",
    ):
        with database.unit_of_work() as session:
            session.execute(sa.text(statement))
    database.close()
    assert b"secret" not in (tmp_path / "file.sqlite").read_bytes()
