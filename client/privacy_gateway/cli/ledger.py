"""`ledger` over HTTP, and `verify` without any server."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gateway import tabular
from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.output import Form, Format, facts, listing, note
from privacy_gateway.errors import invalid

if TYPE_CHECKING:
    from privacy_gateway.checkpoint import Verifier
    from privacy_gateway.logbook import LogReport

DAMAGED = 8


class FileForm(StrEnum):
    """How an export is written."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


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
        Path | None,
        typer.Option("--output", "-o", help="File to write; ledger.jsonl, .csv or .parquet."),
    ] = None,
    form: Annotated[
        FileForm | None,
        typer.Option("--format", help="By default what the file's name says, else jsonl."),
    ] = None,
) -> None:
    """Write the whole ledger for offline verification."""
    told = tabular.form_of(output) if output is not None else "jsonl"
    wanted = form.value if form is not None else told
    path = output or Path(f"ledger.{wanted}")
    with connect() as domain:
        typer.echo(domain.export_ledger(path, form=wanted))
    if tabular.form_of(path) == wanted:
        note(f"next: privacy-gateway verify {path}")


@app.command("checkpoint")
def checkpoint_(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """The log's newest signed checkpoint, to be kept elsewhere for `verify --checkpoint`."""
    with connect() as domain:
        signed = domain.connection.get("/v1/ledger/checkpoint")["note"]
    if output is None:
        typer.echo(signed, nl=False)
        return
    output.write_text(signed, encoding="utf-8")
    typer.echo(output)


@app.command("keys")
def keys(form: Format = Form.table) -> None:
    """The log's public keys, for `verify --key`; compare them over another channel once."""
    with connect() as domain:
        listing(
            form,
            domain.connection.get("/v1/ledger/keys")["items"],
            ["public", "first_signed_at", "signs"],
        )


def verify(
    export: Annotated[Path, typer.Argument(help="A ledger export: .csv, .parquet, or JSON lines.")],
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect", help="POPULATION:SEQ:HASH known from elsewhere (a receipt); repeatable."
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Public key of the log, or a file of them; repeatable."),
    ] = None,
    older: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A checkpoint kept from earlier; the log must grow it."),
    ] = None,
    form: Format = Form.table,
) -> None:
    """Check a ledger export without any server: seals, prices, limits, log. Ends with 8 on damage.

    Every entry's chain is followed, every price recomputed by an engine that did not charge it,
    every admission replayed against the budget's limits, and the log's tree built anew up to the
    checkpoint at the export's end. With --key the checkpoint's signature is checked too.
    """
    from privacy_gateway import verify as verifier
    from privacy_gateway.logbook import Asked

    heads = [_head(text) for text in expect or []]
    asked = Asked(
        keys=[found for text in key or [] for found in keys_of(text)],
        older=text_of("checkpoint", older) if older else None,
    )
    try:
        with tabular.opened(export) as lines:
            report = verifier.verify(lines, expect_heads=heads, asked=asked)
    except OSError as error:
        raise invalid("export", f"{export} cannot be read: {error.strerror}") from error
    if not report.lines:
        raise invalid("export", f"{export} is empty; an export has at least one line")
    _show(asdict(report), form)
    if not report.ok:
        found = len(report.problems)
        problems = "1 problem" if found == 1 else f"{found} problems"
        note(f"{problems}: this ledger is not what was written")
        raise SystemExit(DAMAGED)
    note("every entry is sealed, priced and admitted as it should be")
    _note_log(report.log)


def _note_log(log: LogReport | None) -> None:
    """What stands behind the good news, and what does not."""
    if log is None:
        note("the export has no checkpoint: a history rewritten as a whole would not show")
        return
    note(f"log {log.origin}: {log.size} entries under root {log.root}")
    if log.beyond:
        note(f"{log.beyond} entries are newer than the checkpoint or were not proven")
    if log.grown_from is not None:
        note(f"it contains all {log.grown_from} entries of the older checkpoint, unchanged")
    for key in log.signed_by:
        note(f"signed by {key}")
    if not log.signed_by:
        note("its signature was not checked; pass --key (see `ledger keys`)")


def keys_of(text: str) -> list[Verifier]:
    """A key, or a file with one a line."""
    from privacy_gateway import checkpoint

    checkpoint.required()
    path = Path(text)
    lines = [text] if text.count("+") >= 2 and not path.is_file() else text_of("key", path).split()
    try:
        return [checkpoint.read_verifier(line) for line in lines]
    except checkpoint.BadNote as error:
        raise invalid("key", error.detail, value=text[:200]) from error


def text_of(field: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise invalid(field, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise invalid(field, f"{path} is no text") from error


def _head(text: str) -> tuple[str, int, str]:
    """`POPULATION:SEQ:HASH`."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[1].isascii() or not parts[1].isdigit():
        raise invalid("expect", "has the form POPULATION:SEQ:HASH", value=text[:200])
    return parts[0], int(parts[1]), parts[2]


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
