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
    with explained():
        # Other distributions take seconds to import, and typer looks at every option of every
        # command: a command of our own need wait for neither.
        (_alone(build(extensions=False), next(iter(sys.argv[1:]), "")) or build())()


def _alone(app: typer.Typer, name: str) -> typer.Typer | None:
    """An app without all but one of its commands or groups; None when it has none of that name."""
    app.registered_groups = [group for group in app.registered_groups if group.name == name]
    app.registered_commands = [one for one in app.registered_commands if one.name == name]
    return app if app.registered_groups or app.registered_commands else None


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
