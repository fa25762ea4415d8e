"""`block`, `project` and `proposal`: who owns how much of a budget, and who agrees to more."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.output import Form, Format, facts, listing

blocks = typer.Typer(no_args_is_help=True, help="People of a population who share nothing.")
projects = typer.Typer(no_args_is_help=True, help="Work that researchers do together.")
proposals = typer.Typer(no_args_is_help=True, help="What waits for a second person.")

Population = Annotated[str, typer.Argument(help="Id of the population.")]
Project = Annotated[str, typer.Argument(help="Name of the project.")]
Researcher = Annotated[str, typer.Option(help="Id or address of the researcher's account.")]
Because = Annotated[str, typer.Option(help="Why; written into the ledger.")]


class Word(StrEnum):
    """What one can say to a proposal."""

    approve = "approve"
    reject = "reject"
    withdraw = "withdraw"


@blocks.command("open")
def open_block(
    population: Population,
    name: Annotated[str, typer.Option(help="Name of the block.")],
    clients: Annotated[int, typer.Option(min=1, help="Number of people, public and final.")],
    reason: Because,
    form: Format = Form.table,
) -> None:
    """Open a block; data sets with `block` in their manifest bring its people."""
    with connect() as domain:
        facts(form, domain.shares.open_block(population, name, clients=clients, reason=reason))


@blocks.command("list")
def list_blocks(
    population: Population,
    check: Annotated[bool, typer.Option(help="Compare members with the ledger's seal.")] = False,
    form: Format = Form.table,
) -> None:
    """The blocks of a population."""
    with connect() as domain:
        columns = ["name", "clients", "members", *(["intact"] if check else [])]
        listing(form, domain.shares.blocks(population, check=check), columns)


@projects.command("create")
def create(
    project: Project,
    title: Annotated[str, typer.Option(help="What it is about.")],
    form: Format = Form.table,
) -> None:
    """Make a project (administrators)."""
    with connect() as domain:
        facts(form, domain.shares.create_project(project, title=title))


@projects.command("list")
def list_projects(form: Format = Form.table) -> None:
    """Your projects; all of them for administrators and auditors."""
    with connect() as domain:
        listing(form, domain.shares.projects(), ["name", "title", "members"])


@projects.command("add")
def add(project: Project, researcher: Researcher, form: Format = Form.table) -> None:
    """Let a researcher charge jobs to a project (administrators)."""
    with connect() as domain:
        facts(form, domain.shares.add_member(project, researcher))


@projects.command("remove")
def remove(project: Project, researcher: Researcher) -> None:
    """End a membership (administrators)."""
    with connect() as domain:
        domain.shares.remove_member(project, researcher)


@projects.command("quota")
def quota(
    project: Project,
    population: Annotated[str, typer.Option(help="Id of the population.")],
    epsilon: Annotated[float, typer.Option(help="ε of the share.")],
    form: Format = Form.table,
) -> None:
    """Limit a project's share of a budget (the population's owner)."""
    with connect() as domain:
        facts(form, domain.shares.set_project_quota(population, project, epsilon=epsilon))


@proposals.command("list")
def list_proposals(form: Format = Form.table) -> None:
    """What was proposed in your organisation."""
    with connect() as domain:
        columns = ["id", "kind", "population", "reason", "proposed_by", "state", "expires_at"]
        listing(form, domain.shares.proposals(), columns)


@proposals.command("decide")
def decide(
    proposal: Annotated[str, typer.Argument(help="Id of the proposal.")],
    word: Annotated[Word, typer.Argument(help="What you say.")],
    note: Annotated[str, typer.Option(help="For the record.")] = "",
    form: Format = Form.table,
) -> None:
    """Approve or reject somebody else's proposal, or withdraw your own."""
    with connect() as domain:
        facts(form, domain.shares.decide(proposal, word.value, note=note))


@proposals.command("require")
def require(
    population: Population,
    reason: Because,
    needed: Annotated[bool, typer.Option(help="Whether these need a second person.")] = True,
    form: Format = Form.table,
) -> None:
    """Ask for a second person before a raise or a looser policy; to stop asking needs one, too."""
    with connect() as domain:
        facts(form, domain.shares.set_second_person(population, needed=needed, reason=reason))
