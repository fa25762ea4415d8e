"""`migrate`: bring the database to the schema of this code."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import State, explained, load_settings, open_database


def migrate(
    state: State = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; refused if not current.")
    ] = False,
) -> None:
    """Migrate the database (DATABASE_URL, else SQLite in the state directory).

    With PRIVACY_GATEWAY_ADMIN_PASSWORD set, an empty gateway also gets its first administrator.
    """
    from gateway import bootstrap, schema

    with explained():
        settings = load_settings(state)
        with open_database(settings) as database:
            if check:
                schema.require_current(database)
            else:
                schema.upgrade(database)
                first = (
                    bootstrap.first_admin(database, settings) if settings.admin_password else None
                )
                if first is not None:
                    typer.echo(f"admin {first.email}")
            typer.echo(f"schema {schema.current(database)}")
