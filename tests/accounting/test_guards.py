"""The ledger's guards: set up, taken down by a migration that goes down, and set up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from accounting import guards
from kit.db import Database
from tests.accounting.support import open_population, reserve

CHANGE = "UPDATE ledger_entry SET kind = 'deny' WHERE seq = 2"
DELETE = "DELETE FROM ledger_entry WHERE seq = 2"
# The second entry once more, as the tenth: behind a gap, and sealing nothing that stands there.
_COLUMNS = "job_id, researcher_id, actor_id, round_first, rounds, attempt, fence, leaf"
FORK = (
    f"INSERT INTO ledger_entry (population_id, seq, kind, at, hash, prev_hash, {_COLUMNS})"
    f" SELECT population_id, 10, kind, at, '{'f' * 64}', '{'e' * 64}',"
    f" {_COLUMNS} FROM ledger_entry WHERE seq = 2"
)


@pytest.fixture
def connection(database: Database) -> Iterator[sa.Connection]:
    """A ledger of two entries, in a transaction that is given up."""
    with database.unit_of_work() as session:
        open_population(session)
        reserve(session, "job_1")
    with database.engine.connect() as connection:
        yield connection
        connection.rollback()


def refused(connection: sa.Connection, statement: str) -> bool:
    """Whether the database refuses a statement, which is taken back either way."""
    nested = connection.begin_nested()
    try:
        assert connection.exec_driver_sql(statement).rowcount == 1
    except DBAPIError:
        return True
    finally:
        nested.rollback()
    return False


def run(connection: sa.Connection, statements: Callable[[str], list[str]]) -> None:
    for statement in statements(connection.dialect.name):
        connection.exec_driver_sql(statement)


def test_entries_are_sealed_until_a_migration_unseals_them(connection: sa.Connection) -> None:
    assert refused(connection, CHANGE)
    assert refused(connection, DELETE)
    run(connection, guards.drop_append_only_statements)
    assert not refused(connection, CHANGE)
    assert not refused(connection, DELETE)
    run(connection, guards.append_only_statements)
    assert refused(connection, CHANGE)
    assert refused(connection, DELETE)


def test_an_entry_follows_the_one_it_seals_until_a_migration_lets_it_go(
    connection: sa.Connection,
) -> None:
    assert refused(connection, FORK)
    run(connection, guards.drop_chain_statements)
    assert not refused(connection, FORK)
    run(connection, guards.chain_statements)
    assert refused(connection, FORK)


def test_what_is_down_may_be_taken_down_again(connection: sa.Connection) -> None:
    for _ in range(2):
        run(connection, guards.drop_append_only_statements)
        run(connection, guards.drop_chain_statements)
    assert not refused(connection, FORK)
