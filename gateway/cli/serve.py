"""`serve` and `worker`: one process each, for machines that have their own supervisor."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from gateway.cli.common import State, explained, load_settings, open_database

SHUTDOWN_SECONDS = 5


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 lets the system choose.")] = None,
    state: State = None,
    fd: Annotated[
        int | None, typer.Option(help="An already listening socket.", hidden=True)
    ] = None,
) -> None:
    """Serve HTTP only; needs a migrated database and, for jobs to run, a broker and a worker."""
    import uvicorn

    from gateway import schema
    from gateway.app import create_app
    from jobs.notary import require_not_rolled_back
    from kit import log

    with explained():
        settings = load_settings(state, host=host, port=port)
        log.configure(settings.log_level)
        with open_database(settings) as database:
            schema.require_current(database)
            require_not_rolled_back(database, settings)
        config = uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        sockets = None if fd is None else [socket.socket(fileno=fd)]
        server = uvicorn.Server(config)
        server.run(sockets=sockets)
    raise typer.Exit(0 if server.started else 1)


def worker(state: State = None) -> None:
    """Run jobs: one Celery worker, with a sandbox process for each job."""
    from gateway.supervisor import worker_command

    settings = load_settings(state)
    os.environ["PRIVACY_GATEWAY_STATE"] = str(settings.state_dir)
    command = worker_command()
    os.execv(command[0], command)  # noqa: S606  (the same interpreter, no shell)
