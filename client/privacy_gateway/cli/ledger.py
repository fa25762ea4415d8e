"""`ledger` over HTTP, and `verify` without any server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.output import Form, Format, facts, listing, note
from privacy_gateway.errors import invalid

DAMAGED = 8

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


def verify(
    export: Annotated[Path, typer.Argument(help="A ledger export, JSON lines.")],
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect", help="POPULATION:SEQ:HASH known from elsewhere (a receipt); repeatable."
        ),
    ] = None,
    form: Format = Form.table,
) -> None:
    """Check a ledger export without any server: seals, prices, limits. Ends with 8 on damage.

    Every entry's chain is followed, every price recomputed by an engine that did not charge it,
    and every admission replayed against the budget's limits.
    """
    from privacy_gateway import verify as verifier

    heads = dict(_head(text) for text in expect or [])
    try:
        with export.open("rb") as lines:
            report = verifier.verify(lines, expect_heads=heads)
    except OSError as error:
        raise invalid("export", f"{export} cannot be read: {error.strerror}") from error
    if not report.lines:
        raise invalid("export", f"{export} is empty; an export has at least one line")
    _show(asdict(report), form)
    if not report.ok:
        note(f"{len(report.problems)} problems: this ledger is not what was written")
        raise SystemExit(DAMAGED)
    note("every entry is sealed, priced and admitted as it should be")


def _head(text: str) -> tuple[str, tuple[int, str]]:
    """`POPULATION:SEQ:HASH`."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[1].isascii() or not parts[1].isdigit():
        raise invalid("expect", "has the form POPULATION:SEQ:HASH", value=text[:200])
    return parts[0], (int(parts[1]), parts[2])


def _show(report: dict[str, Any], form: Form) -> None:
    """The populations and, if there are any, the problems."""
    if form is Form.json:
        facts(form, report)
        return
    columns = ["population", "name", "entries", "jobs", "rounds_charged", "epsilon"]
    columns += ["epsilon_spent", "epsilon_committed", "delta", "head_hash"]
    listing(form, list(report["populations"].values()), columns)
    if report["problems"]:
        print()
        listing(form, report["problems"], ["line", "population", "seq", "kind", "detail"])
