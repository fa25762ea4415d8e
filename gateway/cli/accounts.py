"""`user` and `token`: accounts, made on the machine itself without a running gateway."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.common import State, explained, load_settings, open_database
from privacy_gateway.account_bodies import NewPassword, NewUser
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import parse

Email = Annotated[str, typer.Option(help="Address of the account.")]
Password = Annotated[
    str | None,
    typer.Option(
        envvar="PRIVACY_GATEWAY_USER_PASSWORD", help="At least 12 characters; else generated."
    ),
]

user_app = typer.Typer(no_args_is_help=True, help="Accounts, on the gateway's own machine.")


@user_app.command("add")
def add(
    email: Annotated[str, typer.Option(help="Address that logs in.")],
    role: Annotated[str, typer.Option(help="admin, owner, researcher or auditor.")],
    organisation: Annotated[str, typer.Option(help="Tenant of the account.")] = "default",
    password: Password = None,
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

    from gateway import schema
    from gateway.tables import USER, User

    with explained(), open_database(load_settings(state)) as database:
        schema.require_current(database)
        with database.read() as session:
            users = session.scalars(sa.select(User).order_by(USER.c.id)).all()
        for user in users:
            closed = "" if user.disabled_at is None else "  disabled"
            typer.echo(f"{user.id}  {user.role:<10}  {user.email}{closed}")


@user_app.command("password")
def set_password(email: Email, password: Password = None, state: State = None) -> None:
    """Give an account a new password and end all its tokens; a generated one is printed once."""
    from gateway import auth

    chosen = password or auth.generate_password()
    with explained():
        hashed = auth.hash_password(parse(NewPassword, {"new_password": chosen}).new_password)
        _change(email, state, partial(auth.set_password, password_hash=hashed))
    if password is None:
        typer.echo(f"password {chosen}  (shown this once)")


@user_app.command("disable")
def disable(email: Email, state: State = None) -> None:
    """Close an account: no log-in, no token. Its jobs and data stay as they are."""
    from gateway import auth

    with explained():
        _change(email, state, partial(auth.set_disabled, disabled=True))


@user_app.command("enable")
def enable(email: Email, state: State = None) -> None:
    """Open a closed account again; it logs in with its old password."""
    from gateway import auth

    with explained():
        _change(email, state, partial(auth.set_disabled, disabled=False))


def _change(email: str, state: Path | None, change: Callable[..., int]) -> None:
    """Change one account, and say how many tokens ended by it."""
    from gateway import auth, schema
    from kit.clock import utc_now

    with open_database(load_settings(state)) as database:
        schema.require_current(database)
        with database.unit_of_work() as session:
            user = auth.account(session, email)
            if user is None:
                raise _nobody(email)
            ended = change(session, user, now=utc_now())
            done = f"{user.id} {user.email}: {ended} tokens ended"
    typer.echo(done)


def _nobody(email: str) -> Refused:
    return Refused("not_found", f"no account has the address {email}; see `user list`")


def token(
    email: Annotated[str, typer.Option(help="Whose token.")],
    label: Annotated[str, typer.Option(help="What it is for.")] = "operator",
    hours: Annotated[float, typer.Option(min=0.1, max=8760, help="Lifetime in hours.")] = 24.0,
    state: State = None,
) -> None:
    """Make a bearer token for an account; its text is printed once."""
    from gateway import auth, schema
    from kit.clock import from_micros, rfc3339, utc_now
    from kit.ids import new_id

    with explained(), open_database(load_settings(state)) as database:
        schema.require_current(database)
        with database.unit_of_work() as session:
            user = auth.account(session, email)
            if user is None:
                raise _nobody(email)
            if user.disabled_at is not None:
                raise Refused("conflict", f"the account {email} is disabled; see `user enable`")
            issued = auth.issue(
                session, user_id=user.id, label=label, now=utc_now(), hours=hours, new_id=new_id
            )
        typer.echo(issued.text)
        typer.echo(f"expires {rfc3339(from_micros(issued.row.expires_at))}", err=True)
