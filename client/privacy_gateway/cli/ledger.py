"""`ledger`: entries, exports, decisions, checkpoints and keys, over HTTP."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gateway import canonical, tabular
from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.files import writing
from privacy_gateway.cli.output import Form, Format, listing, note
from privacy_gateway.errors import invalid

if TYPE_CHECKING:
    from privacy_gateway.checkpoint import Verifier

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
    with connect() as domain, writing(path):
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
    with writing(output):
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


@app.command("decisions")
def decisions(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, JSON lines.")
    ] = Path("decisions.jsonl"),
) -> None:
    """Write the log of policy decisions, for `verify --decisions`."""
    # Under its name only when it is whole: a refusal must not empty the log of another day.
    part = output.with_name(f"{output.name}.part")
    with connect() as domain, writing(output):
        try:
            with part.open("wb") as file:
                for decision in domain.connection.pages("/v1/decisions"):
                    file.write(canonical.dumps(decision, floats=True) + b"\n")
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
    typer.echo(output)


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
