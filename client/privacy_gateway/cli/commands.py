"""Puts the commands together and runs them.

Commands of other distributions come in by entry points; one that cannot be loaded is named and
left out, so that a broken server installation never takes `verify` away from an auditor.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer

from privacy_gateway import __version__
from privacy_gateway.cli import (
    account,
    datasets,
    jobs,
    ledger,
    policies,
    populations,
    shares,
    statements,
    sweeps,
    verification,
)
from privacy_gateway.cli.output import EXITS, explained, note

GROUP = "privacy_gateway.commands"
_EPILOG = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXITS.items()) + "."


def build(extensions: bool = True) -> typer.Typer:
    """The whole command line; without `extensions`, only what this distribution brings."""
    app = typer.Typer(
        name="privacy-gateway",
        help="Train on people's data under a privacy budget; own, audit and verify that budget.",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_root)
    app.command("login")(account.login)
    app.command("logout")(account.logout)
    app.command("whoami")(account.whoami)
    app.command("password")(account.change_password)
    app.add_typer(populations.app, name="population")
    app.add_typer(shares.blocks, name="block")
    app.add_typer(shares.projects, name="project")
    app.add_typer(shares.proposals, name="proposal")
    app.add_typer(datasets.app, name="dataset")
    app.add_typer(policies.app, name="policy")
    app.command("quote")(jobs.quote)
    app.command("submit")(jobs.submit)
    app.add_typer(jobs.app, name="jobs")
    app.add_typer(sweeps.app, name="sweep")
    app.add_typer(ledger.app, name="ledger")
    app.command("verify")(verification.verify)
    app.add_typer(statements.app, name="statement")
    if extensions:
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            _extend(app, entry)
    return app


def run() -> None:
    """Read the command line and do what it says."""
    own = build(extensions=False)
    with explained():
        # Other distributions take seconds to import; a command of our own need not wait for them.
        (own if _named(sys.argv[1:]) in _commands(own) else build())()


def _named(arguments: list[str]) -> str | None:
    """The command on a command line."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _commands(app: typer.Typer) -> frozenset[str | None]:
    """Names of an app's commands and groups."""
    groups = {str(group.name) for group in app.registered_groups}
    return frozenset(groups | {command.name for command in app.registered_commands})


def _extend(app: typer.Typer, entry: EntryPoint) -> None:
    """Hang another distribution's commands on."""
    try:
        entry.load()(app)
    except ImportError as error:
        note(f"the commands of {entry.value} are left out: {error}")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options before any command."""


if __name__ == "__main__":
    run()
