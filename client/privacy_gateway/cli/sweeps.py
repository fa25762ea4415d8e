"""`sweep`: several runs priced, submitted, followed and cancelled as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.files import read_json
from privacy_gateway.cli.jobs import REFUSED
from privacy_gateway.cli.output import Form, Format, facts, listing
from privacy_gateway.errors import invalid

app = typer.Typer(no_args_is_help=True, help="Several runs admitted together, or not at all.")

SweepFile = Annotated[Path, typer.Argument(help='JSON {"jobs": [job, …]}, `-` for standard input.')]
SweepId = Annotated[str, typer.Argument(help="Id of the sweep.")]


@app.command("quote")
def quote(sweep: SweepFile, form: Format = Form.table) -> None:
    """Price and verdict of a sweep; nothing is spent. Ends with 3 when it would be refused."""
    with connect() as domain:
        priced = domain.quote_sweep(_jobs(sweep))
        rows = [
            {
                "member": place,
                "verdict": made.verdict,
                "epsilon": made.epsilon,
                "budget_after": made.budget_after,
                "refusals": ", ".join(rule.code for rule in made.refusals),
            }
            for place, made in enumerate(priced.quotes)
        ]
        listing(form, rows, ["member", "verdict", "epsilon", "budget_after", "refusals"])
    if priced.verdict == "deny":
        raise SystemExit(REFUSED)


@app.command("submit")
def submit(
    sweep: SweepFile,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: the same key is the same sweep, for ever.")
    ] = None,
    form: Format = Form.table,
) -> None:
    """Submit all jobs of a sweep, or none; prints its id."""
    with connect() as domain:
        sent = domain.submit_sweep(_jobs(sweep), idempotency_key=key)
        facts(form, sent.view, {"id": sent.id} | sent.facts())


@app.command("show")
def show(sweep: SweepId, form: Format = Form.table) -> None:
    """A sweep and its jobs."""
    with connect() as domain:
        found = domain.sweep(sweep)
        facts(form, found.view, {"id": found.id} | found.facts())


@app.command("cancel")
def cancel(sweep: SweepId, form: Format = Form.table) -> None:
    """End every job of a sweep; what is not charged yet goes back."""
    with connect() as domain:
        ended = domain.sweep(sweep).cancel()
        facts(form, ended.view, {"id": ended.id} | ended.facts())


def _jobs(file: Path) -> list[dict[str, Any]]:
    """The members as they are written; the gateway says what is wrong with them."""
    jobs = read_json(file, "sweep").get("jobs")
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise invalid("jobs", "is not a list of jobs")
    return jobs
