"""`ledger` over HTTP, and `verify` without any server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.output import Form, Format, listing, note

app = typer.Typer(no_args_is_help=True, help="What was charged to whom, entry by entry.")


@app.command("list")
def list_entries(
    population: Annotated[str | None, typer.Option(help="Only this population.")] = None,
    researcher: Annotated[str | None, typer.Option(help="Only this researcher.")] = None,
    job: Annotated[str | None, typer.Option(help="Only this job.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only entries of this kind.")] = None,
    since: Annotated[str | None, typer.Option(help="From this RFC 3339 time on.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this RFC 3339 time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most entries to show.")] = 100,
    form: Format = Form.table,
) -> None:
    """Entries of the ledger, oldest first."""
    filters = {
        "population": population,
        "researcher": researcher,
        "job": job,
        "kind": kind,
        "since": since,
        "until": until,
    }
    with connect() as domain:
        entries = domain.ledger(limit=limit, **filters)
        listing(form, entries, ["population", "seq", "at", "kind", "job", "rounds", "actor"])


@app.command("export")
def export(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, JSON lines.")
    ] = Path("ledger.jsonl"),
) -> None:
    """Write the whole ledger for offline verification."""
    with connect() as domain:
        typer.echo(domain.export_ledger(output))
    note(f"next: privacy-gateway verify {output}")
