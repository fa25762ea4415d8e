"""`backup` and `restore`: what an operator does on the machine itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.cli.common import State, explained, load_settings, open_database


def backup(
    folder: Annotated[Path, typer.Argument(help="New folder to write the backup into.")],
    state: State = None,
    data: Annotated[
        bool, typer.Option("--with-data", help="Copy client stores too; they may be large.")
    ] = False,
) -> None:
    """Back up the database of a gateway that may be running.

    The folder holds personal data's derivatives and, with --with-data, the data itself: keep it as
    safe as the gateway. The log's private keys are never in it.
    """
    from gateway.backup import make
    from kit.clock import utc_now

    with explained():
        settings = load_settings(state)
        with open_database(settings) as database:
            manifest = make(settings, database, folder.resolve(), now=utc_now(), with_data=data)
    typer.echo(f"{folder}: {manifest['entries']} ledger entries under the log")
    typer.echo("keep a newer `ledger export` elsewhere: a restore needs it (see --help)", err=True)


def restore(
    folder: Annotated[
        Path | None,
        typer.Argument(help="The backup; none where other tools restored the database."),
    ] = None,
    state: State = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="A newer export of the whole ledger, in any form."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move an SQLite database that is there aside.")
    ] = False,
    without_witness: Annotated[
        bool, typer.Option("--without-witness", help="There is no witness any more.")
    ] = False,
    format_: Annotated[
        Literal["text", "json"],
        typer.Option("--format", help="`text` for people, `json` for programs."),
    ] = "text",
) -> None:
    """Put a backup in place, write back what was spent since, and compare with the witness.

    A backup that is older than the witness needs --export with an export that is not: its entries
    are written back with the seals they had, open reservations are charged in full, and unfinished
    jobs end. Without it nothing is restored.
    """
    from gateway.restore import Asking
    from gateway.restore import restore as put_back
    from kit.clock import utc_now

    with explained():
        asking = Asking(folder, export, replace=replace, without_witness=without_witness)
        done = put_back(load_settings(state), asking, now=utc_now())
    if format_ == "json":
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(f"{done.entries} ledger entries, {done.written_back} written back from the export")
    for title, jobs in (("ended", done.jobs_ended), ("charged in full", done.forfeited)):
        typer.echo(f"{len(jobs)} jobs {title}{': ' if jobs else ''}{', '.join(jobs)}")
    typer.echo(f"witness {done.witness}")
