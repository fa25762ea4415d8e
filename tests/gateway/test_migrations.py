"""The migrations make exactly the schema of the models, on both databases, and go down again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlmodel import SQLModel

import jobs.tables  # noqa: F401
from gateway import schema
from gateway.bootstrap import first_admin
from gateway.settings import GatewaySettings
from kit.db import Database
from kit.guards import GUARDS
from privacy_gateway.errors import Refused


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database without any table."""
    if request.param == "sqlite":
        database = Database(request.getfixturevalue("sqlite_url"))
    else:
        database = Database(request.getfixturevalue("postgres_database_url"))
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    yield database
    database.close()


def _tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names()) - {"alembic_version"}


def _checks(database: Database) -> set[tuple[str, str | None]]:
    found = sa.inspect(database.engine)
    return {
        (table, check["name"])
        for table in _tables(database)
        for check in found.get_check_constraints(table)
    }


def test_migrated_schema_is_the_schema_of_the_models(empty: Database) -> None:
    schema.upgrade(empty)

    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
    assert _checks(empty) == {
        (table.name, str(constraint.name))
        for table in SQLModel.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint) and constraint.name
    }


def test_down_leaves_nothing_and_up_works_again(empty: Database) -> None:
    schema.upgrade(empty)
    schema.downgrade(empty, "base")
    assert _tables(empty) == set()

    schema.upgrade(empty)
    assert _tables(empty) == set(SQLModel.metadata.tables)


def test_ledger_entries_of_a_migrated_database_cannot_be_changed(empty: Database) -> None:
    schema.upgrade(empty)
    triggers = {
        "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal",
    }[empty.url.get_backend_name()]

    with empty.engine.connect() as connection:
        assert connection.scalar(sa.text(triggers)) >= 1


def _triggers(database: Database) -> set[tuple[str, ...]]:
    """Every trigger: name, table, and what fires it."""
    query = {
        "sqlite": "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT t.tgname, t.tgrelid::regclass::text, pg_get_triggerdef(t.oid)"
        " || p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE NOT t.tgisinternal",
    }[database.url.get_backend_name()]
    with database.engine.connect() as connection:
        return {tuple(row) for row in connection.exec_driver_sql(query)}


def test_migrated_triggers_are_those_of_the_models(empty: Database, tmp_path: Path) -> None:
    schema.upgrade(empty)
    migrated = _triggers(empty)
    with empty.engine.begin() as connection:
        if empty.is_sqlite:
            made = Database(f"sqlite:///{tmp_path / 'made.db'}")
        else:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
            made = Database(empty.url.render_as_string(hide_password=False))
    made.create_all()
    assert migrated == _triggers(made)
    made.close()
    assert {table for _, table, _ in migrated} == set(GUARDS)


def test_a_gateway_refuses_another_schema_and_says_what_to_do(empty: Database) -> None:
    with pytest.raises(Refused, match="privacy-gateway migrate") as refused:
        schema.require_current(empty)
    assert refused.value.code == "unavailable"

    schema.upgrade(empty, "0001")
    with pytest.raises(Refused, match="0001"):
        schema.require_current(empty)

    schema.upgrade(empty)
    schema.require_current(empty)


def test_the_first_start_makes_one_administrator_and_later_ones_none(empty: Database) -> None:
    schema.upgrade(empty)
    settings = GatewaySettings(admin_email="Boss@Example.org", admin_password=None)

    made = first_admin(empty, settings)

    assert made is not None
    assert made.email == "boss@example.org"
    assert made.generated
    assert made.password not in repr(made)
    assert first_admin(empty, settings) is None


def test_a_migration_may_take_longer_than_the_database_lets_others_wait(
    postgres_database_url: str,
) -> None:
    """At either end: a statement of the server, and what the program does between two."""
    database = Database(postgres_database_url, silence_seconds=2.0)
    long = 4.0
    with schema._changing(database) as connection:
        connection.execute(sa.text("SELECT pg_sleep(:long)"), {"long": long})
        threading.Event().wait(long)
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
        connection.rollback()
    with database.engine.connect() as other:
        assert other.execute(sa.text("SHOW idle_in_transaction_session_timeout")).scalar() == "2s"
    database.close()
