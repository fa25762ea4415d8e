"""`statement`: a population's account over a period, signed; and the check of one, offline."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.files import writing
from privacy_gateway.cli.ledger import DAMAGED, keys_of, text_of
from privacy_gateway.cli.output import note
from privacy_gateway.errors import Refused, invalid

if TYPE_CHECKING:
    from privacy_gateway.checkpoint import Verifier


class PageForm(StrEnum):
    """How a statement is written."""

    html = "html"
    json = "json"


app = typer.Typer(help="Signed statements of account.", invoke_without_command=True)


@app.callback()
def statement(
    context: typer.Context,
    population: Annotated[str | None, typer.Option(help="Whose budget.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="RFC 3339 time; else from the beginning.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="RFC 3339 time, exclusive; else until now.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    form: Annotated[
        PageForm, typer.Option("--format", help="`html` to read and print, `json` for programs.")
    ] = PageForm.html,
) -> None:
    """Write a population's signed statement for a period."""
    if context.invoked_subcommand is not None:
        return
    if population is None:
        raise invalid("population", "name one (see `population list`)")
    path = output or Path(f"statement.{form.value}")
    with connect() as domain, writing(path):
        saved = domain.save_statement(path, population, since=since, until=until, form=form.value)
        typer.echo(saved)
    note(f"next: privacy-gateway statement verify {path} --key KEY")


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A statement, HTML or JSON.")],
    key: Annotated[
        list[str], typer.Option("--key", help="Public key of the log, or a file; repeatable.")
    ],
    export: Annotated[
        Path | None,
        typer.Option("--export", help="A ledger export to build the statement from again."),
    ] = None,
) -> None:
    """Check a statement without any server. Ends with 8 when it is not what was signed.

    The signature over the whole file, the checkpoint in it, and the proof that its last entry is
    under that checkpoint; with --export also every figure, from the entries themselves.
    """
    from privacy_gateway import checkpoint, statement

    checkpoint.required()
    trusted = [found for text in key for found in keys_of(text)]
    try:
        document = _read(file, trusted)
        believed = statement.check(document, trusted)
        wrong = [] if export is None else _differences(document, export)
    except checkpoint.BadNote as error:
        note(f"this statement is not to be believed: {error.detail}")
        raise SystemExit(DAMAGED) from error
    _tell(document["statement"], believed)
    if wrong:
        note(f"the export tells otherwise about: {', '.join(wrong)}")
        raise SystemExit(DAMAGED)
    if export is not None:
        note("every figure follows from the entries of the export")


def _read(file: Path, trusted: list[Verifier]) -> Any:
    from privacy_gateway import statement

    text = text_of("file", file)
    if text.lstrip().startswith("<"):
        return statement.read_page(text, trusted)
    try:
        return json.loads(text)
    except ValueError as error:
        raise invalid("file", f"{file} is neither a page nor JSON") from error


def _differences(document: Any, export: Path) -> list[str]:
    """The export is checked first: figures that follow from forged entries prove nothing."""
    from collections.abc import Iterator

    from privacy_gateway import statement, tabular
    from privacy_gateway import verify as verifier

    told = document["statement"]
    head = (told["population"]["population"], told["closing"]["seq"], told["closing"]["hash"])

    def lines() -> Iterator[bytes]:
        with tabular.opened(export) as found:
            yield from found

    try:
        report = verifier.verify(lines(), expect_heads=[head])
        if not report.ok:
            first = report.problems[0]
            detail = f"the export itself is damaged, line {first.line}: {first.detail}"
            raise Refused("conflict", detail)
        return statement.differences(document, lines)[0]
    except OSError as error:
        raise invalid("export", f"{export} cannot be read: {error.strerror}") from error


def _tell(told: dict[str, Any], believed: tuple[Verifier, ...]) -> None:
    """What was signed, so that the reader need not trust what a page shows."""
    population, closing = told["population"], told["closing"]
    typer.echo(f"population  {population['name']} ({population['population']})")
    for name in ("opening", "closing"):
        numbers = [f"{part} {told[name][f'{part}_nano'] / 1e9:.6f}" for part in _PARTS]
        typer.echo(f"{name}     ε {', '.join(numbers)}, entry {told[name]['seq']}")
    typer.echo(f"seal        {closing['hash']}")
    if not told["final"]:
        note("provisional: it was issued less than a minute after its period")
    for found in believed:
        note(f"signed by {found}")


_PARTS = ("epsilon", "spent", "reserved", "remaining")
