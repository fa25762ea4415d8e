"""The database schema in force: which Alembic revision, and how to get to this code's.

The gateway refuses to serve on another schema than the one it was written for: half-migrated
invariants are no invariants. Nothing here may migrate by itself; `migrate` and `up` ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from kit.db import Database
from kit.patience import take_time
from privacy_gateway.errors import Refused

DIRECTORY = Path(__file__).parent / "migrations"


def current(database: Database) -> str | None:
    """The revision the database is at; None for an empty one."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision this code was written for."""
    revision = ScriptDirectory(str(DIRECTORY)).get_current_head()
    assert revision is not None  # noqa: S101  (the first migration is part of the source)
    return revision


def upgrade(database: Database, revision: str = "head") -> None:
    """Run migrations up to `revision`, in one transaction each."""
    with _changing(database) as connection:
        command.upgrade(_config(connection), revision)
        connection.commit()


def downgrade(database: Database, revision: str) -> None:
    """Run migrations down to `revision`; `base` empties the database."""
    with _changing(database) as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


def require_current(database: Database) -> None:
    """Raise unless the database is at this code's revision.

    Raises:
        Refused: `unavailable`, saying what to do.
    """
    found = current(database)
    if found != head():
        raise Refused(
            "unavailable",
            f"the database schema is at {found or 'nothing'}, this gateway needs {head()}; "
            "run `privacy-gateway migrate`",
        )


@contextmanager
def _changing(database: Database) -> Iterator[sa.Connection]:
    """A connection on which tables may be made anew.

    SQLite would take a dropped table's rows for deleted ones. It obeys the switch only outside of a
    transaction; migrations check the keys themselves (`gateway.migrations.rebuild`).
    """
    with database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        if database.is_sqlite:
            raw.execute("PRAGMA foreign_keys=OFF")
        take_time(connection)
        try:
            yield connection
        finally:
            if database.is_sqlite:
                connection.rollback()
                raw.execute("PRAGMA foreign_keys=ON")


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(DIRECTORY))
    config.attributes["connection"] = connection
    return config
