"""`quote`, `submit` and `jobs`: ask for a price, send a job, follow it, take the result."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.files import read_job, writing
from privacy_gateway.cli.output import Form, Format, facts, listing, note
from privacy_gateway.jobs import Job, ResultForm

NOT_COMPLETED = 7
REFUSED = 3

app = typer.Typer(no_args_is_help=True, help="Jobs you sent, or that run on your data.")

JobFile = Annotated[Path, typer.Argument(help="JSON job body, `-` for standard input.")]
JobId = Annotated[str, typer.Argument(help="Id of the job.")]


def quote(
    job: JobFile,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Print the job that would pass, and nothing else.")
    ] = False,
    form: Format = Form.table,
) -> None:
    """Price and verdict of a job; nothing is spent. Ends with 3 when it would be refused."""
    asked = read_job(job)
    with connect() as domain:
        priced = domain.quote(asked)
        if adopt:
            facts(Form.json, priced.adopt())
            return
        facts(form, priced, priced.facts())
    if not priced.passes:
        if priced.counter_offer is not None:
            note("next: `privacy-gateway quote --adopt JOB` prints a job that would pass")
        raise SystemExit(REFUSED)


def submit(
    job: JobFile,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: the same key is the same job, for ever.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    form: Format = Form.table,
) -> None:
    """Submit a job once; prints its id."""
    asked = read_job(job)
    with connect() as domain:
        sent = domain.submit(asked, idempotency_key=key)
        if wait:
            _follow(sent, form, None)
        else:
            facts(form, sent.view, {"id": sent.id} | sent.facts())
            _note_next(sent)


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most jobs to show.")] = 100,
    form: Format = Form.table,
) -> None:
    """The jobs you can see."""
    columns = ["id", "status", "dataset", "purpose", "rounds_charged", "rounds", "epsilon"]
    with connect() as domain:
        jobs = domain.jobs(status=status, limit=limit)
        listing(form, [job.view for job in jobs], [*columns, "created_at"])


@app.command("show")
def show(job: JobId, form: Format = Form.table) -> None:
    """One job."""
    with connect() as domain:
        found = domain.job(job)
        facts(form, found.view, {"id": found.id} | found.facts())


@app.command("watch")
def watch(
    job: JobId,
    timeout: Annotated[float | None, typer.Option(help="Most seconds to wait.")] = None,
    form: Format = Form.table,
) -> None:
    """Follow a job until it ends; Ctrl-C leaves it running. Ends with 7 if it did not complete."""
    with connect() as domain:
        _follow(domain.job(job), form, timeout)


@app.command("cancel")
def cancel(job: JobId, form: Format = Form.table) -> None:
    """Stop a job before its next charge; what is not charged goes back to the budget."""
    with connect() as domain:
        cancelled = domain.job(job).cancel()
        facts(form, cancelled.view, {"id": cancelled.id} | cancelled.facts())


class Word(StrEnum):
    """What is said about a job that waits for consent."""

    approve = "approve"
    reject = "reject"


@app.command("decide")
def decide(
    job: JobId,
    word: Annotated[Word, typer.Argument(help="What you say; a rejected job is denied for good.")],
    note: Annotated[str, typer.Option(help="Why; whoever sees the job reads it.")] = "",
    form: Format = Form.table,
) -> None:
    """Agree, or not, to a job that the policy lets run only with people's consent."""
    with connect() as domain:
        found = domain.job(job)
        decided = found.approve(note) if word is Word.approve else found.reject(note)
        facts(form, decided.view, {"id": decided.id} | decided.facts())


@app.command("result")
def result(
    job: JobId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else JOB.FORMAT here.")
    ] = None,
    form: Annotated[
        ResultForm,
        typer.Option("--format", help="keras is built on this machine, which needs Keras."),
    ] = "npz",
) -> None:
    """Download the released model; free for ever."""
    path = output or Path(f"{job}.{form}")
    with connect() as domain, writing(path):
        typer.echo(domain.job(job).download(path, form=form))


@app.command("receipt")
def receipt(job: JobId, form: Format = Form.table) -> None:
    """What was guaranteed to the people in the data."""
    with connect() as domain:
        facts(form, domain.job(job).receipt())


def _note_next(job: Job) -> None:
    """A key that was used before answers its job of then, which may be over."""
    if job.status == "completed":
        note(f"next: privacy-gateway jobs result {job.id}")
    elif job.ended:
        note(f"this job is over: {job.status}; use a new --key for a new job")
    else:
        note(f"next: privacy-gateway jobs watch {job.id}")


def _follow(job: Job, form: Form, timeout: float | None) -> None:
    """Wait, show, and say by the exit code how it ended."""
    try:
        job.wait(timeout)
    except TimeoutError as error:
        note(str(error))
        raise SystemExit(NOT_COMPLETED) from None
    facts(form, job.view, {"id": job.id} | job.facts())
    if job.status != "completed":
        raise SystemExit(NOT_COMPLETED)
    note(f"next: privacy-gateway jobs result {job.id}")
