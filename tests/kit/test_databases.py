"""A database that one test leaves is empty and unchanged for the next, or it is gone."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from kit.db import Database
from tests.support import databases
from tests.support.servers import wait_until


@pytest.fixture
def pool(postgres_url: str) -> databases.Pool:
    template = databases.create(postgres_url, None)
    databases.execute(
        databases.named(postgres_url, database=template),
        "CREATE TABLE person (id serial PRIMARY KEY, name text)",
        "CREATE TABLE visit (person int REFERENCES person)",
        "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'append only'; END $$",
        "CREATE TRIGGER kept BEFORE DELETE ON person FOR EACH ROW EXECUTE FUNCTION never()",
    )
    return databases.Pool(postgres_url, template)


def _visit(url: str) -> int:
    """Somebody new; her number, which counts from 1 in an empty database."""
    database = Database(url)
    with database.engine.begin() as session:
        insert = "INSERT INTO person (name) VALUES ('x') RETURNING id"
        number = int(session.exec_driver_sql(insert).scalar_one())
        session.exec_driver_sql(f"INSERT INTO visit VALUES ({number})")
    database.close()
    return number


def _wait_until_nobody_is_there(url: str) -> None:
    """A server's process of a closed connection ends by itself, some time after the closing."""
    database = Database(url)
    with database.engine.connect() as connection:
        others = databases._OTHERS.format(me="pg_backend_pid()")
        wait_until(
            lambda: not connection.exec_driver_sql(others).scalar_one(), what="the visitors' end"
        )
        connection.rollback()
    database.close()


def test_the_next_test_finds_it_empty(
    pool: databases.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied = pool._emptied

    def patient(name: str) -> bool:
        _wait_until_nobody_is_there(databases.named(pool._server, database=name))
        return emptied(name)

    monkeypatch.setattr(pool, "_emptied", patient)
    with pool.lent() as first:
        assert [_visit(first), _visit(first)] == [1, 2]
    with pool.lent() as second:
        assert second == first
        assert _visit(second) == 1


@pytest.mark.parametrize(
    "change",
    [
        ["CREATE TABLE more (id int)"],
        ["ALTER TABLE person ADD COLUMN age int"],
        ["ALTER TABLE person DISABLE TRIGGER kept"],
        ["GRANT SELECT ON person TO PUBLIC"],
        ["ALTER TABLE visit DROP CONSTRAINT visit_person_fkey"],
        ["INSERT INTO person (name) VALUES ('x')", "ANALYZE person"],
        ["DROP FUNCTION never() CASCADE"],
    ],
    ids=lambda change: change[-1],
)
def test_one_that_was_changed_is_gone(pool: databases.Pool, change: list[str]) -> None:
    with pool.lent() as first:
        databases.execute(first, *change)
    with pool.lent() as second:
        assert second != first


def test_one_that_somebody_still_uses_is_gone(pool: databases.Pool) -> None:
    with pool.lent() as first:
        stranger = Database(first)
        connection = stranger.engine.connect()
        connection.execute(sa.text("SELECT 1"))
    with pool.lent() as second:
        assert second != first
    connection.invalidate()
    stranger.close()
