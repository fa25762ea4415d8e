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
    """Store a draft and show what keeps it from activation; ends with 3 when anything does."""
    draft = _draft(dataset, source, "check")
    _show(draft, form)
    if draft["problems"]:
        raise Refused("policy_refused", f"revision {draft['number']} cannot be activated")


@app.command("test")
def run_tests(dataset: DatasetId, source: Source, form: Format = Form.table) -> None:
    """Store a draft and show the outcome of its own tests; ends with 3 unless all pass."""
    draft = _draft(dataset, source, "test")
    results = draft["results"]
    listing(form, results, ["engine", "name", "passed", "detail"])
    if not results or not all(result["passed"] for result in results):
        raise Refused("policy_refused", f"revision {draft['number']} does not pass its tests")


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
    as_researcher: Annotated[
        str | None,
        typer.Option(help="Id or address of the researcher who asks; a sample one by default."),
    ] = None,
    form: Format = Form.table,
) -> None:
    """What a revision would decide about a job; nothing is reserved."""
    asked = read_job(job)
    with connect() as domain:
        facts(form, domain.owner.dry_run(dataset, number, asked, as_researcher=as_researcher))


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
    """A revision without its text, its problems one a line."""
    if form is Form.json:
        facts(form, revision)
        return
    names = ("dataset", "number", "state", "digest", "reason", "created_at", "activated_at")
    shown = {name: revision[name] for name in names if revision.get(name) is not None}
    for finding in revision.get("findings", []):
        place = f"{finding['severity']} at {finding['line']}:{finding['column']}"
        shown[place] = f"{finding['code']}: {finding['message']} {finding['hint']}".strip()
    for at, problem in enumerate(revision.get("problems", []), start=1):
        shown[f"problem {at}"] = problem
    facts(form, revision, shown)
