"""`policy`: write, check, publish and try the owner's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.files import policy_sources, read_job, writing
from privacy_gateway.cli.output import Form, Format, facts, listing
from privacy_gateway.errors import Refused, invalid

app = typer.Typer(no_args_is_help=True, help="The owner's rules for one data set, in Rego.")

DatasetId = Annotated[str, typer.Argument(help="Id of the data set.")]
Number = Annotated[int, typer.Argument(min=1, help="Number of the revision.")]
Source = Annotated[
    Path, typer.Argument(help="A .rego file (tests beside it in NAME_test.rego) or its directory.")
]
Last = Annotated[int, typer.Option(min=1, max=10_000, help="How many decisions, newest first.")]
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
    reached = draft.get("coverage")
    if form is Form.table and reached is not None:
        print(f"{reached['percent']} % of the policy's lines are reached")
        for rule in reached["rules"]:
            print(f"  never wholly reached: {rule}")
    if not results or not all(result["passed"] for result in results):
        raise Refused("policy_refused", f"revision {draft['number']} does not pass its tests")


@app.command("publish")
def publish(
    dataset: DatasetId, source: Source, reason: Reason = "published", form: Format = Form.table
) -> None:
    """Store a draft and make it the revision that decides, if it passes every check.

    A looser one waits where the population asks for a second person.
    """
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
    job: Annotated[
        Path | None, typer.Argument(help="JSON job body, `-` for standard input.")
    ] = None,
    past: Annotated[str | None, typer.Option(help="Id of a past job, asked as it was.")] = None,
    as_researcher: Annotated[
        str | None,
        typer.Option(help="Id or address of the researcher who asks; a sample one by default."),
    ] = None,
    form: Format = Form.table,
) -> None:
    """What a revision would decide about a job; nothing is reserved."""
    if (job is None) == (past is None):
        raise invalid("job", "give a job body or --past with a job's id, one of them")
    asked = past if job is None else read_job(job)
    with connect() as domain:
        found = domain.owner.dry_run(dataset, number, asked or "", as_researcher=as_researcher)
        facts(form, found)


@app.command("rollback")
def rollback(
    dataset: DatasetId,
    number: Number,
    reason: Annotated[str, typer.Option(help="Why; kept with the new revision.")],
    form: Format = Form.table,
) -> None:
    """Let a superseded text decide again, as a new revision."""
    with connect() as domain:
        _show(domain.owner.roll_back_policy(dataset, number, reason=reason), form)


@app.command("shadow")
def shadow(dataset: DatasetId, number: Number, form: Format = Form.table) -> None:
    """Let a tested draft run in the active one's shadow; `replay --since-shadow` tells of it."""
    with connect() as domain:
        _show(domain.owner.shadow_policy(dataset, number), form)


@app.command("replay")
def replay(
    dataset: DatasetId,
    number: Number,
    last: Last = 1000,
    since_shadow: Annotated[
        bool, typer.Option("--since-shadow", help="Only what was asked since it is in the shadow.")
    ] = False,
    form: Format = Form.table,
) -> None:
    """Which past decisions a revision would make otherwise, newly allowed first."""
    with connect() as domain:
        found = domain.owner.replay_policy(dataset, number, last=last, since_shadow=since_shadow)
    if form is Form.json:
        facts(form, found)
        return
    columns = ["change", "before", "after", "subject", "purpose", "rounds", "epsilon", "decision"]
    listing(form, found.flips, columns)
    print(f"{found.same} of {found.decisions} decisions stay as they are")


@app.command("audit")
def audit(dataset: DatasetId, last: Last = 1000, form: Format = Form.table) -> None:
    """Ask past decisions again, byte for byte; ends with 1 when one comes out otherwise."""
    with connect() as domain:
        found = domain.owner.audit_policy(dataset, last=last)
    facts(form, found, found.model_dump(exclude={"findings"}))
    if form is Form.table and found.findings:
        listing(form, found.findings, ["standing", "decision", "detail"])
    if not found.ok:
        raise typer.Exit(1)


@app.command("region")
def region(
    dataset: DatasetId,
    number: Number,
    asked: Annotated[
        Path | None,
        typer.Option(help="JSON body: job, as_researcher, axes; the newest job by default."),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the plot to this file.")] = None,
    form: Format = Form.table,
) -> None:
    """What a revision and the remaining budget admit: rounds × noise × cohort."""
    body = {} if asked is None else read_job(asked)
    with connect() as domain:
        if svg is not None:
            plot = domain.owner.policy_region_text(dataset, number, "svg", body)
            with writing(svg, "svg"):
                svg.write_text(plot, encoding="utf-8")
        if form is Form.json:
            facts(form, domain.owner.policy_region(dataset, number, body))
        else:
            print(domain.owner.policy_region_text(dataset, number, "table", body), end="")


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
    """A revision without its text, its problems one a line; or the proposal it waits as."""
    if form is Form.json:
        facts(form, revision)
        return
    if "proposed_by" in revision:
        facts(form, revision)
        print(
            f"waits for a second person: privacy-gateway proposal decide {revision['id']} approve"
        )
        return
    names = ("dataset", "number", "state", "digest", "reason", "created_at", "activated_at")
    shown = {name: revision[name] for name in names if revision.get(name) is not None}
    for finding in revision.get("findings", []):
        place = f"{finding['severity']} at {finding['line']}:{finding['column']}"
        shown[place] = f"{finding['code']}: {finding['message']} {finding['hint']}".strip()
    for at, problem in enumerate(revision.get("problems", []), start=1):
        shown[f"problem {at}"] = problem
    facts(form, revision, shown)
