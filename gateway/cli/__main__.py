"""`python -m gateway.cli`: the operator's commands without the client's."""

from __future__ import annotations

import typer

from gateway.cli.main import register

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
register(app)
app(prog_name="privacy-gateway")
