"""`dataset`: register a file, list what can be named in a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.files import read_json, writing
from privacy_gateway.cli.output import Form, Format, facts, listing
from privacy_gateway.errors import invalid
from privacy_gateway.views import DatasetView

app = typer.Typer(no_args_is_help=True, help="Data sets: registered by owners, named in jobs.")

_DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="Id of the data set.")]
_Because = Annotated[str, typer.Option(help="Why; written into the ledger.")]
_COLUMNS = ["id", "name", "version", "population", "clients", "classes", "policy", "frozen"]


@app.command("register")
def register(
    manifest: Annotated[Path, typer.Argument(help="JSON manifest, `-` for standard input.")],
    file: Annotated[Path, typer.Argument(help="The data file the manifest describes.")],
    on_server: Annotated[
        bool, typer.Option("--on-server", help="FILE is a path at the gateway; upload nothing.")
    ] = False,
    form: Format = Form.table,
) -> None:
    """Register a data file as the next version of a data set."""
    described = read_json(manifest, "manifest")
    if not on_server and not file.is_file():
        raise invalid("file", f"{file} is not a file here; use --on-server for one at the gateway")
    with connect() as domain:
        view = domain.owner.register_dataset(described, file, on_server=on_server).view
        shown = {column: getattr(view, column) for column in [*_COLUMNS, "digest"]}
        shown["assets"] = [f"{asset['name']} {asset['id']}" for asset in view.assets]
        facts(form, view, shown)


@app.command("list")
def list_datasets(form: Format = Form.table) -> None:
    """The data sets you can see."""
    with connect() as domain:
        listing(form, [dataset.view for dataset in domain.datasets], _COLUMNS)


@app.command("show")
def show(dataset: _DatasetId, form: Format = Form.table) -> None:
    """Schema, public constants and assets of a data set; never content."""
    with connect() as domain:
        facts(form, domain.dataset(dataset).view)


@app.command("mock")
def mock(
    dataset: _DatasetId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else DATASET-mock.npz.")
    ] = None,
    clients: Annotated[int, typer.Option(help="Made-up people.")] = 10,
    examples: Annotated[int, typer.Option(help="Most records of one of them.")] = 20,
) -> None:
    """Download made-up records of the same shape (NPZ), to try code on; free, about nobody."""
    with connect() as domain:
        data = domain.dataset(dataset).mock_archive(clients=clients, examples=examples)
    path = output or Path(f"{dataset}-mock.npz")
    with writing(path):
        path.write_bytes(data)
    typer.echo(path)


@app.command("freeze")
def freeze(dataset: _DatasetId, reason: _Because, form: Format = Form.table) -> None:
    """Withdraw a version: admit no job on it, end running ones before their next rounds."""
    with connect() as domain:
        _brief(domain.owner.freeze_dataset(dataset, reason=reason), form)


@app.command("unfreeze")
def unfreeze(dataset: _DatasetId, reason: _Because, form: Format = Form.table) -> None:
    """Offer a withdrawn version again."""
    with connect() as domain:
        _brief(domain.owner.unfreeze_dataset(dataset, reason=reason), form)


def _brief(view: DatasetView, form: Form) -> None:
    facts(form, view, {column: getattr(view, column) for column in _COLUMNS})
