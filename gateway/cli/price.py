"""`price`: what a training plan costs, offline.

Arithmetic is `accounting.calculator`'s; here are flags and tables only. The accountant is imported
when the command runs, so that no other command waits for it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from privacy_gateway import rdp
from privacy_gateway.cli.output import Form, Format, explained, facts
from privacy_gateway.notebook import plain_table

if TYPE_CHECKING:
    from accounting.calculator import Calculation
    from accounting.plan import TrainingPlan

# Spelled here: `accounting.plan` would be imported for every command's `--help`.
Sampling = Literal["poisson", "fixed_size", "none"]
AlgorithmName = Literal["dp_fedavg", "dp_fedsgd", "dp_fedprox", "dp_ftrl"]
Cohort = Literal["secret", "visible"]


def price(
    clients: Annotated[int, typer.Option(help="People in the population, N.")],
    clients_per_round: Annotated[int, typer.Option(help="People expected in a round.")],
    rounds: Annotated[int, typer.Option(help="Rounds, each a noisy release.")],
    noise_multiplier: Annotated[float, typer.Option(help="z: noise of z·C on the sum.")],
    delta: Annotated[float, typer.Option(help="δ, at most 1/(10 N).")],
    sampling: Annotated[Sampling, typer.Option(help="How a cohort is drawn.")] = "poisson",
    algorithm: Annotated[
        AlgorithmName, typer.Option(help="dp_ftrl is priced as a tree, the others alike.")
    ] = "dp_fedavg",
    adaptive_clipping: Annotated[
        bool, typer.Option("--adaptive-clipping", help="Pay for the clipped fraction too.")
    ] = False,
    cohort: Annotated[Cohort, typer.Option(help="visible: others learn who was drawn.")] = "secret",
    bands: Annotated[
        int | None, typer.Option(help="b of the banded matrix that dp_ftrl uses, not a tree.")
    ] = None,
    budget_epsilon: Annotated[
        float | None, typer.Option(help="ε of a fresh budget to ask what fits into it.")
    ] = None,
    form: Format = Form.table,
) -> None:
    """Price a training plan offline: ε by RDP and PLD, the cost vector, what fits a budget."""
    from accounting.calculator import calculate
    from accounting.plan import TrainingPlan

    with explained():
        plan = TrainingPlan(
            population_clients=clients,
            clients_per_round=clients_per_round,
            rounds=rounds,
            noise_multiplier=noise_multiplier,
            sampling=sampling,
            clip_norm=None if adaptive_clipping else 1.0,
            algorithm=algorithm,
            cohort=cohort,
            bands=bands,
        )
        _print(plan, calculate(plan, delta=delta, budget_epsilon=budget_epsilon), form)


def _print(plan: TrainingPlan, answer: Calculation, form: Form) -> None:
    if form is Form.json:
        print(json.dumps({"plan": asdict(plan)} | asdict(answer), indent=2))
        return
    shown: dict[str, Any] = {
        "ε by RDP": f"{answer.epsilon_rdp:.6f}",
        "ε by PLD": "–" if answer.epsilon_pld is None else f"{answer.epsilon_pld:.6f}",
        "δ": answer.delta,
        "event": f"{answer.charge_units} × {answer.event}",
        "agreed on by": " and ".join(answer.engines),
    }
    if answer.fit is not None:
        shown |= {
            f"such jobs in a fresh ε = {answer.fit.epsilon:g}": answer.fit.jobs,
            "most rounds of one job": answer.fit.most_rounds,
            "least noise multiplier": answer.fit.least_noise,
            "largest cohort": answer.fit.largest_cohort,
        }
    facts(form, answer, shown)
    print()
    pairs = zip(answer.orders, answer.cost, strict=True)
    print(plain_table(["order", "cost, nats"], [[f"{a:g}", _nats(cost)] for a, cost in pairs]))


def _nats(pico: int) -> str:
    """Exact: an integer of pico-nats with its point set."""
    return f"{pico // rdp.PICO}.{pico % rdp.PICO:012d}"
