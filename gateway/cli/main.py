"""The operator's commands, hung on the client's command line by an entry point.

`privacy-gateway` belongs to the client distribution; installing the server adds these commands to
it. Nothing here may start a server at import, or import TensorFlow.
"""

from __future__ import annotations

import typer

from gateway.cli import accounts, backup, demo, doctor, keys, price, schema, serve, up


def register(app: typer.Typer) -> None:
    """Add the operator's commands to `app`."""
    app.command("demo")(demo.demo)
    app.command("up")(up.up)
    app.command("serve")(serve.serve)
    app.command("worker")(serve.worker)
    app.command("migrate")(schema.migrate)
    app.command("backup")(backup.backup)
    app.command("restore")(backup.restore)
    app.command("doctor")(doctor.doctor)
    app.command("price")(price.price)
    app.command("token")(accounts.token)
    app.add_typer(accounts.user_app, name="user")
    app.add_typer(keys.app, name="log-key")
