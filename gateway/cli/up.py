"""`up`: the whole gateway on this machine, with one command."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import State, explained, load_settings, open_database


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 lets the system choose.")] = None,
    state: State = None,
) -> None:
    """Serve everything on this machine: broker, worker, gateway.

    Migrates the database, makes the first administrator (PRIVACY_GATEWAY_ADMIN_EMAIL and
    PRIVACY_GATEWAY_ADMIN_PASSWORD, or a generated password that is printed once), and prints
    `ready URL` when requests are answered. DATABASE_URL, REDIS_URL and OPA_URL switch to real
    servers. Ends cleanly on SIGTERM and Ctrl-C.
    """
    from gateway import bootstrap, supervisor
    from jobs.notary import require_not_rolled_back
    from kit import log

    with explained():
        settings = load_settings(state, host=host, port=port)
        log.configure(settings.log_level)
        first = bootstrap.prepare(settings)
        if first is not None:
            typer.echo(f"admin {first.email}")
            if first.generated:
                typer.echo(f"password {first.password}  (shown this once)")
        with open_database(settings, create=True) as database:
            require_not_rolled_back(database, settings)
        code = supervisor.run(settings, announce=lambda url: typer.echo(f"ready {url}"))
    raise typer.Exit(code)
