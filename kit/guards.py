"""Triggers that keep what must stay: rows nobody may change, and columns fixed at their making.

The statements serve `create_all` and the migrations alike, on both databases, so that a schema
cannot be had without them. They hold for every role, the tables' owner included; only somebody who
may drop triggers gets past them, and he is what the witness is for. This module knows no table of
the house and must never weaken a guard that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

GUARDS: Final[dict[str, Guard]] = {}
"""The guard of each protected table, filled as the rooms' tables are imported."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What may never happen to a table's rows, beside the constraints.

    Attributes:
        table: its name.
        fixed: columns that never change; None where no column does (append-only).
        refusal: the sentence the database answers with.

    A guarded row is never deleted.
    """

    table: str
    fixed: tuple[str, ...] | None = None
    refusal: str = ""

    @property
    def append_only(self) -> bool:
        """Whether rows are only ever inserted."""
        return self.fixed is None

    def create(self, dialect: str) -> list[str]:
        """Statements that set the guard up; `dialect` is `sqlite` or `postgresql`."""
        return self._sqlite() if dialect == "sqlite" else self._postgresql()

    def drop(self, dialect: str) -> list[str]:
        """The way back, for migrations that go down or rebuild a table."""
        table = self.table
        if dialect == "sqlite":
            last = "update" if self.append_only else "fixed"
            names = (f"{table}_no_{last}" if last == "update" else f"{table}_fixed",)
            return [f"DROP TRIGGER IF EXISTS {name}" for name in (*names, f"{table}_no_delete")]
        triggers = ("no_change",) if self.append_only else ("no_delete", "fixed")
        return [
            *(f"DROP TRIGGER IF EXISTS {table}_{name} ON {table}" for name in triggers),
            f"DROP FUNCTION IF EXISTS {self._function}()",
        ]

    @property
    def _function(self) -> str:
        return f"{self.table}_{'append_only' if self.append_only else 'kept'}"

    def _sentence(self) -> str:
        if self.refusal:
            return self.refusal
        what = "append-only" if self.append_only else "kept as they were made"
        return f"rows of {self.table} are {what}"

    def _sqlite(self) -> list[str]:
        table, stop = self.table, f"BEGIN SELECT RAISE(ABORT, '{self._sentence()}'); END"
        deletes = f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {stop}"
        if self.fixed is None:
            return [f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {stop}", deletes]
        columns = ", ".join(self.fixed)
        return [
            f"CREATE TRIGGER {table}_fixed BEFORE UPDATE OF {columns} ON {table} {stop}",
            deletes,
        ]

    def _postgresql(self) -> list[str]:
        table, call = self.table, f"FOR EACH STATEMENT EXECUTE FUNCTION {self._function}()"
        function = (
            f"CREATE OR REPLACE FUNCTION {self._function}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{self._sentence()}' "
            "USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        if self.fixed is None:
            verbs = "UPDATE OR DELETE OR TRUNCATE"
            return [function, f"CREATE TRIGGER {table}_no_change BEFORE {verbs} ON {table} {call}"]
        columns = ", ".join(self.fixed)
        return [
            function,
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE OR TRUNCATE ON {table} {call}",
            f"CREATE TRIGGER {table}_fixed BEFORE UPDATE OF {columns} ON {table} {call}",
        ]


def protect(table: Any, guard: Guard) -> None:
    """Set a guard up whenever `create_all` makes the table."""
    GUARDS[guard.table] = guard

    @sa.event.listens_for(table, "after_create")
    def _create(_table: Any, connection: sa.Connection, **_: Any) -> None:
        for statement in guard.create(connection.dialect.name):
            connection.exec_driver_sql(statement)
