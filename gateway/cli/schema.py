"""`migrate`: bring the database to the schema of this code, and its roles to theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import State, explained, load_settings, open_database
from privacy_gateway.errors import Refused

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings
    from kit.db import Database


def migrate(
    state: State = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; refused if not current.")
    ] = False,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles",
            help="Also set up the PostgreSQL roles migrator, api, worker and auditor, or print the "
            "SQL for an administrator where DATABASE_URL may not create roles.",
        ),
    ] = False,
) -> None:
    """Migrate the database (DATABASE_URL, else SQLite in the state directory).

    With PRIVACY_GATEWAY_ADMIN_PASSWORD set, an empty gateway also gets its first administrator.
    Where the roles exist, the privileges of new tables are set as well.
    """
    from gateway import schema

    with explained():
        settings = load_settings(state)
        with open_database(settings, create=True) as database:
            if check:
                schema.require_current(database)
            else:
                _upgrade(database, settings, roles)
            typer.echo(f"schema {schema.current(database)}")


def _upgrade(database: Database, settings: GatewaySettings, with_roles: bool) -> None:
    import sqlalchemy as sa

    from gateway import bootstrap, schema
    from gateway import roles as database_roles

    schema.upgrade(database)
    first = bootstrap.first_admin(database, settings) if settings.admin_password else None
    if first is not None:
        typer.echo(f"admin {first.email}")
    try:
        if with_roles:
            _set_up_roles(database, settings)
        else:
            database_roles.renew(database, settings.database_role_prefix)
    except sa.exc.ProgrammingError as error:
        detail = "DATABASE_URL names a user who neither owns the tables nor is a superuser"
        raise Refused("forbidden", f"the roles were not set up: {detail} ({error.orig})") from error


def _set_up_roles(database: Database, settings: GatewaySettings) -> None:
    from gateway import roles as database_roles

    given = {role: getattr(settings, f"database_{role}_password") for role in database_roles.ROLES}
    passwords = {role: secret.get_secret_value() for role, secret in given.items() if secret}
    done = database_roles.set_up(database, settings.database_role_prefix, passwords)
    if done.missing:
        typer.echo("-- An administrator of the server runs this, then `migrate --roles` again.")
        typer.echo(done.sql)
        missing = ", ".join(done.missing)
        raise Refused("not_ready", f"DATABASE_URL may not create roles; missing: {missing}")
    typer.echo(f"roles {', '.join(done.roles)}")
