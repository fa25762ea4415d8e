"""`population`: people and the budget that protects them."""

from __future__ import annotations

from typing import Annotated

import typer

from privacy_gateway.cli.credentials import connect
from privacy_gateway.cli.output import Form, Format, facts, listing

app = typer.Typer(no_args_is_help=True, help="People, and the privacy budget that protects them.")

Population = Annotated[str, typer.Argument(help="Id of the population.")]
Because = Annotated[str, typer.Option(help="Why; written into the ledger.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Option(help="Name of the population.")],
    clients: Annotated[int, typer.Option(min=1, help="Number of people, public and final.")],
    epsilon: Annotated[float, typer.Option(help="ε of the whole budget.")],
    delta: Annotated[float, typer.Option(help="δ of the whole budget.")],
    privacy_unit: Annotated[str, typer.Option(help="What one client is.")] = "person",
    reason: Because = "opened",
    filter_: Annotated[
        str, typer.Option("--filter", help="rdp, or gdp for unsampled Gaussians alone.")
    ] = "rdp",
    second_person: Annotated[
        bool, typer.Option(help="Raises and looser policies need somebody else, too.")
    ] = False,
    form: Format = Form.table,
) -> None:
    """Declare people and open their budget (ε, δ)."""
    with connect() as domain:
        made = domain.owner.create_population(
            name,
            clients=clients,
            epsilon=epsilon,
            delta=delta,
            privacy_unit=privacy_unit,
            reason=reason,
            filter=filter_,
            second_person=second_person,
        )
        facts(form, made)


@app.command("list")
def list_populations(form: Format = Form.table) -> None:
    """The populations you can see."""
    with connect() as domain:
        columns = ["id", "name", "clients", "privacy_unit", "epsilon", "delta", "frozen"]
        listing(form, domain.populations, columns)


@app.command("show")
def show(
    population: Population,
    at: Annotated[str | None, typer.Option(help="An earlier moment, RFC 3339.")] = None,
    form: Format = Form.table,
) -> None:
    """What of a budget is spent, reserved and left."""
    with connect() as domain:
        budget = domain.budget(population, at=at)
        shown = {
            "population": population,
            "at": at or "now",
            "ε of the budget": budget.epsilon,
            "δ": budget.delta,
            "ε spent": budget.epsilon_spent,
            "ε reserved": budget.epsilon_reserved,
            "ε remaining": budget.epsilon_remaining,
        }
        for quota in budget.quotas:
            shown[f"quota of {quota.researcher}"] = (
                f"ε {quota.epsilon:g}, spent {quota.epsilon_spent:.6g}"
            )
        for share in budget.project_quotas:
            shown[f"quota of project {share.project}"] = (
                f"ε {share.epsilon:g}, spent {share.epsilon_spent:.6g}"
            )
        for block in budget.blocks:
            shown[f"block {block.name}"] = (
                f"{block.clients} people, ε spent {block.epsilon_spent:.6g}, "
                f"remaining {block.epsilon_remaining:.6g}"
            )
        facts(form, budget, shown)


@app.command("grant")
def grant(
    population: Population,
    epsilon: Annotated[float, typer.Option(help="ε to add.")],
    reason: Because,
    form: Format = Form.table,
) -> None:
    """Raise a budget by a new entry; the past stays as it is."""
    with connect() as domain:
        facts(form, domain.owner.grant(population, epsilon=epsilon, reason=reason))


@app.command("freeze")
def freeze(population: Population, reason: Because, form: Format = Form.table) -> None:
    """Stop every job at its next charge, and admit none."""
    with connect() as domain:
        facts(form, domain.owner.freeze(population, reason=reason))


@app.command("unfreeze")
def unfreeze(population: Population, reason: Because, form: Format = Form.table) -> None:
    """Let jobs be admitted and charged again."""
    with connect() as domain:
        facts(form, domain.owner.unfreeze(population, reason=reason))


@app.command("quota")
def quota(
    population: Population,
    researcher: Annotated[str, typer.Option(help="Id or address of the researcher's account.")],
    epsilon: Annotated[float, typer.Option(help="ε of the share.")],
    form: Format = Form.table,
) -> None:
    """Limit one researcher's share of a budget."""
    with connect() as domain:
        facts(form, domain.owner.set_quota(population, researcher, epsilon=epsilon))
