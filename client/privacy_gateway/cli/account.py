"""`login`, `password`, `logout`, `whoami`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from privacy_gateway.cli import credentials
from privacy_gateway.cli.output import Form, Format, facts, note
from privacy_gateway.client import DEFAULT_PORT
from privacy_gateway.connection import Connection
from privacy_gateway.errors import Refused
from privacy_gateway.views import LoginView

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"


def login(
    email: Annotated[str, typer.Option(help="Address of the account.", prompt=True)],
    url: Annotated[
        str, typer.Option(envvar="PRIVACY_GATEWAY_URL", help="Address of the gateway.")
    ] = DEFAULT_URL,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Log in and keep the token for later commands (a file that only you can read).

    The password comes from PRIVACY_GATEWAY_PASSWORD, from standard input, or is asked for; never
    from the command line, where others could see it.
    """
    password = _password(password_stdin)
    with credentials.addressed():
        connection = Connection(url)
    _log_in(connection, email, password)


def _log_in(connection: Connection, email: str, password: str) -> None:
    body = {"email": email, "password": password}
    url = connection.url
    answer = connection.post("/v1/login", body, repeatable=True)
    view = LoginView.model_validate(answer)
    file = credentials.save(
        credentials.Credentials(url, email, view.role, view.token, view.expires_at, view.token_id)
    )
    typer.echo(f"logged in to {url} as {email} ({view.role}) until {view.expires_at}")
    note(f"the token is kept in {file}")


def change_password() -> None:
    """Change your own password, then log in with it; tokens made before end.

    Both are asked for, or come from PRIVACY_GATEWAY_PASSWORD and PRIVACY_GATEWAY_NEW_PASSWORD.
    """
    present = _password(from_stdin=False)
    new = os.environ.get("PRIVACY_GATEWAY_NEW_PASSWORD") or str(
        typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    )
    with credentials.connect() as domain:
        email, url = domain.me.email, domain.connection.url
        domain.connection.post("/v1/me/password", {"password": present, "new_password": new})
    _log_in(Connection(url), email, new)


def logout() -> None:
    """Forget the stored token, and end it at the gateway where that answers."""
    stored = credentials.load()
    if not credentials.forget():
        typer.echo("there was no stored login")
        return
    typer.echo("logged out")
    if stored is None or not stored.token_id:
        return
    connection = Connection(stored.url, stored.token)
    try:
        connection.call("DELETE", f"/v1/tokens/{stored.token_id}")
    except Refused as refusal:
        if refusal.code != "unauthenticated":  # it had ended before
            note(f"the token itself ends at {stored.expires_at}: {refusal.detail}")


def whoami(form: Format = Form.table) -> None:
    """The account behind the token."""
    with credentials.connect() as domain:
        facts(form, domain.me, {"gateway": domain.connection.url} | domain.me.model_dump())


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    given = os.environ.get("PRIVACY_GATEWAY_PASSWORD")
    return given or str(typer.prompt("Password", hide_input=True, err=True))
