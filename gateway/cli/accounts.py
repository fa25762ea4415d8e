"""`user` and `token`: accounts, made on the machine itself without a running gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import State, explained, load_settings, open_database
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import NewUser, parse

user_app = typer.Typer(no_args_is_help=True, help="Accounts, on the gateway's own machine.")


@user_app.command("add")
def add(
    email: Annotated[str, typer.Option(help="Address that logs in.")],
    role: Annotated[str, typer.Option(help="admin, owner, researcher or auditor.")],
    organisation: Annotated[str, typer.Option(help="Tenant of the account.")] = "default",
    password: Annotated[
        str | None,
        typer.Option(
            envvar="PRIVACY_GATEWAY_USER_PASSWORD", help="At least 12 characters; else generated."
        ),
    ] = None,
    state: State = None,
) -> None:
    """Make an account; a generated password is printed once."""
    from gateway import auth, schema
    from kit.clock import utc_now
    from kit.ids import new_id

    with explained(), open_database(load_settings(state)) as database:
        schema.require_current(database)
        chosen = password or auth.generate_password()
        body = parse(
            NewUser,
            {"email": email, "password": chosen, "role": role, "organisation": organisation},
        )
        hashed = auth.hash_password(body.password)
        with database.unit_of_work() as session:
            user = auth.create_user(
                session,
                email=body.email,
                password_hash=hashed,
                role=body.role,
                organisation=body.organisation,
                now=utc_now(),
                new_id=new_id,
            )
            made = user.id, user.email
    typer.echo(f"{made[0]} {made[1]}")
    if password is None:
        typer.echo(f"password {chosen}  (shown this once)")


@user_app.command("list")
def list_users(state: State = None) -> None:
    """All accounts: id, role, address."""
    import sqlalchemy as sa

    from gateway.tables import USER, User

    with explained(), open_database(load_settings(state)) as database, database.read() as session:
        for user in session.scalars(sa.select(User).order_by(USER.c.id)):
            typer.echo(f"{user.id}  {user.role:<10}  {user.email}")


def token(
    email: Annotated[str, typer.Option(help="Whose token.")],
    label: Annotated[str, typer.Option(help="What it is for.")] = "operator",
    hours: Annotated[float, typer.Option(min=0.1, max=8760, help="Lifetime.")] = 24.0,
    state: State = None,
) -> None:
    """Make a bearer token for an account; its text is printed once."""
    import sqlalchemy as sa

    from gateway import auth
    from gateway.tables import USER, User
    from kit.clock import from_micros, rfc3339, utc_now
    from kit.ids import new_id

    with explained(), open_database(load_settings(state)) as database:
        with database.unit_of_work() as session:
            query = sa.select(User).where(USER.c.email == email.lower())
            user = session.scalar(query)
            if user is None:
                raise Refused("not_found", f"no account has the address {email}")
            issued = auth.issue(
                session, user_id=user.id, label=label, now=utc_now(), hours=hours, new_id=new_id
            )
        typer.echo(issued.text)
        typer.echo(f"expires {rfc3339(from_micros(issued.row.expires_at))}", err=True)
