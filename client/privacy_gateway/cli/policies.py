"""`policy`: write, check, publish and try the owner's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.files import policy_sources, read_job
from privacy_gateway.cli.output import Form, Format, facts, listing
from privacy_gateway.errors import Refused

app = typer.Typer(no_args_is_help=True, help="The owner's rules for one data set, in Rego.")

DatasetId = Annotated[str, typer.Argument(help="Id of the data set.")]
Number = Annotated[int, typer.Argument(min=1, help="Number of the revision.")]
Source = Annotated[
    Path, typer.Argument(help="A .rego file (tests beside it in NAME_test.rego) or its directory.")
]
Reason = Annotated[str, typer.Option(help="Why; kept with the revision.")]


@app.command("check")
def check(dataset: DatasetId, source: Source, form: Format = Form.table) -> None:
    """Store a draft and show what is wrong with it; ends with 3 when it could not be activated."""
    draft = _draft(dataset, source, "check")
    _show(draft, form)
    if draft.get("findings"):
        raise Refused("policy_refused", f"revision {draft.get('number')} has findings")


@app.command("test")
def test(dataset: DatasetId, source: Source, form: Format = Form.table) -> None:
    """Store a draft and show the outcome of its own tests; ends with 3 when one fails."""
    draft = _draft(dataset, source, "test")
    _show(draft, form)
    if not _tests_pass(draft):
        raise Refused("policy_refused", f"revision {draft.get('number')} does not pass its tests")


@app.command("publish")
def publish(
    dataset: DatasetId, source: Source, reason: Reason = "published", form: Format = Form.table
) -> None:
    """Store a draft and make it the revision that decides, if it passes every check."""
    text, tests = policy_sources(source)
    with connect() as domain:
        _show(domain.owner.publish_policy(dataset, text, tests=tests, reason=reason), form)


@app.command("activate")
def activate(dataset: DatasetId, number: Number, form: Format = Form.table) -> None:
    """Make an earlier draft the revision that decides."""
    with connect() as domain:
        _show(domain.owner.activate_policy(dataset, number), form)


@app.command("dry-run")
def dry_run(
    dataset: DatasetId,
    number: Number,
    job: Annotated[Path, typer.Argument(help="JSON job body, `-` for standard input.")],
    form: Format = Form.table,
) -> None:
    """What a revision would decide about a job; nothing is reserved."""
    with connect() as domain:
        facts(form, domain.owner.dry_run(dataset, number, read_job(job)))


@app.command("list")
def list_revisions(dataset: DatasetId, form: Format = Form.table) -> None:
    """All revisions of a data set's policy."""
    with connect() as domain:
        rows = list(domain.connection.pages(f"/v1/datasets/{dataset}/policies"))
        listing(form, rows, ["number", "state", "reason", "digest", "created_at"])


@app.command("show")
def show(dataset: DatasetId, number: Number, form: Format = Form.table) -> None:
    """One revision with its text and findings."""
    with connect() as domain:
        facts(form, domain.connection.get(f"/v1/datasets/{dataset}/policies/{number}"))


def _draft(dataset: str, source: Path, reason: str) -> dict[str, Any]:
    text, tests = policy_sources(source)
    with connect() as domain:
        return domain.owner.draft_policy(dataset, text, tests=tests, reason=reason)


def _show(revision: dict[str, Any], form: Form) -> None:
    """A revision without its text."""
    hidden = ("source", "tests")
    facts(form, revision, {n: v for n, v in revision.items() if n not in hidden})


def _tests_pass(revision: dict[str, Any]) -> bool:
    """Whether the gateway's report says that tests exist and all pass."""
    report = revision.get("test_report") or {}
    return bool(report.get("ok"))
