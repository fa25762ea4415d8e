"""Constraints added to tables that are full already, on both databases.

SQLite cannot add a constraint to a table; the table is made anew from its own text with the clause
in it, filled, and put in the old one's place with its indexes and triggers, as SQLite's manual
describes it. Rows are copied as they are: nothing here may change a value, or a sealed entry would
no longer verify. `gateway.schema` switches foreign keys off meanwhile; they are checked afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa
from alembic import op

Checks = Mapping[str, Sequence[tuple[str, str]]]
"""CHECK constraints by table: name and condition."""


def is_sqlite() -> bool:
    """Which of the two databases this migration runs on."""
    return op.get_bind().dialect.name == "sqlite"


def execute(statements: Sequence[str]) -> None:
    """Run statements exactly as they are written."""
    for statement in statements:
        # The driver of PostgreSQL looks for placeholders even where there are no parameters.
        op.get_bind().exec_driver_sql(statement if is_sqlite() else statement.replace("%", "%%"))


def add_clauses(table: str, clauses: Sequence[str]) -> None:
    """Put table constraints at the end of a table's definition."""
    if is_sqlite():
        text = "".join(f", {clause}" for clause in clauses)
        _rebuild(table, lambda sql: sql.rstrip().removesuffix(")").rstrip() + f"{text})")
        return
    execute([f"ALTER TABLE {table} ADD {clause}" for clause in clauses])


def drop_clauses(table: str, clauses: Sequence[str], names: Sequence[str]) -> None:
    """Take the same constraints away; PostgreSQL knows them by name."""
    if is_sqlite():
        _rebuild(table, lambda sql: _without(sql, clauses))
        return
    execute([f"ALTER TABLE {table} DROP CONSTRAINT {name}" for name in names])


def check(name: str, condition: str) -> str:
    """The text of a CHECK constraint."""
    return f"CONSTRAINT {name} CHECK ({condition})"


def _without(sql: str, clauses: Sequence[str]) -> str:
    for clause in clauses:
        if f", {clause}" not in sql:
            raise ValueError(f"the table has no such clause: {clause}")
        sql = sql.replace(f", {clause}", "", 1)
    return sql


def _rebuild(table: str, change: Callable[[str], str]) -> None:
    bind = op.get_bind()
    kept = sa.text(
        "SELECT type, sql FROM sqlite_master WHERE tbl_name = :table AND sql IS NOT NULL"
    )
    rows = bind.execute(kept, {"table": table}).all()
    (definition,) = (row.sql for row in rows if row.type == "table")
    head, parenthesis, rest = change(definition).partition("(")
    if head.strip().strip('"').split()[-1].strip('"') != table:
        raise ValueError(f"{head} does not make {table}")
    execute(
        [
            f"CREATE TABLE _new_{table} {parenthesis}{rest}",
            f"INSERT INTO _new_{table} SELECT * FROM {table}",  # noqa: S608  (our own names)
            f"DROP TABLE {table}",
            f"ALTER TABLE _new_{table} RENAME TO {table}",
            *(row.sql for row in rows if row.type != "table"),
        ]
    )
    if broken := bind.exec_driver_sql(f"PRAGMA foreign_key_check({table})").first():
        raise ValueError(f"a row of {table} names one that is not there: {tuple(broken)}")
