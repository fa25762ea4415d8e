"""`migrate`: bring the database to the schema of this code, ready for its first log-in."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway import bootstrap, schema
from gateway.cli.common import State, explained, load_settings, open_database


def migrate(
    state: State = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if not current.")
    ] = False,
) -> None:
    """Migrate the database (DATABASE_URL, else SQLite in the state directory).

    Where PRIVACY_GATEWAY_ADMIN_PASSWORD (or its `_FILE`) is set and there is no account yet, the
    first administrator is made, too.
    """
    settings = load_settings(state)
    with explained(), open_database(settings) as database:
        if check:
            schema.require_current(database)
        else:
            schema.upgrade(database)
        typer.echo(f"schema {schema.current(database)}")
        if check or settings.admin_password is None:
            return
        first = bootstrap.first_admin(database, settings)
        if first is not None:
            typer.echo(f"admin {first.email}")
