"""`migrate`: bring the database to the schema of this code."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway import schema
from gateway.cli.common import State, explained, load_settings, open_database


def migrate(
    state: State = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if not current.")
    ] = False,
) -> None:
    """Migrate the database (DATABASE_URL, else SQLite in the state directory)."""
    with explained(), open_database(load_settings(state)) as database:
        if check:
            schema.require_current(database)
        else:
            schema.upgrade(database)
        typer.echo(f"schema {schema.current(database)}")
