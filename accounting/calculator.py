"""The offline price calculator: what a plan costs, alone and within a budget. No database.

The command line, notebooks and documents print these numbers; the ledger computes its own. Only
`jobs_that_fit` and the inverse answers refer to a budget with weights; ε by RDP and PLD are of the
plan alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accounting import filter as admission
from accounting.budget import Terms, check_delta, epsilon_nano_of, terms_of
from accounting.calibrate import how_many_more, max_cohort, min_noise, most_rounds
from accounting.curve import ENGINE, price, standalone_epsilon, standalone_epsilon_pld
from accounting.plan import TrainingPlan
from privacy_gateway import rdp


@dataclass(frozen=True, slots=True)
class Fit:
    """How a plan lies in an empty budget of the given ε and δ.

    Attributes:
        epsilon: ε of the budget.
        jobs: how many such jobs it admits.
        most_rounds: of one such job; 0 when not one fits.
        least_noise: at which the plan fits; None when none is enough.
        largest_cohort: at which the plan fits; None when not even one client.
    """

    epsilon: float
    jobs: int
    most_rounds: int
    least_noise: float | None
    largest_cohort: int | None


@dataclass(frozen=True, slots=True)
class Calculation:
    """What a plan costs.

    Attributes:
        mechanism: canonical form of one charge unit.
        event: its dp-accounting event as text.
        charge_units: how many of them.
        epsilon_rdp: of the plan alone, dp-accounting RDP on its default orders.
        epsilon_pld: of the plan alone, privacy loss distributions; None where there is none.
        orders: the currency's grid.
        cost: of the whole plan, pico-nats, one number an order.
        engines: that agreed on it.
        fit: answers about a budget, when one was given.
    """

    mechanism: dict[str, Any]
    event: str
    charge_units: int
    delta: float
    epsilon_rdp: float
    epsilon_pld: float | None
    orders: tuple[float, ...]
    cost: tuple[int, ...]
    engines: tuple[str, str]
    fit: Fit | None


@dataclass(frozen=True, slots=True)
class EmptyBudget:
    """A budget nobody has spent from."""

    terms: Terms

    @property
    def limits(self) -> tuple[int, ...]:
        """Limits at every order, pico-nats."""
        return self.terms.limits

    @property
    def charged(self) -> tuple[int, ...]:
        """Nothing."""
        return admission.zero()

    @property
    def reserved(self) -> tuple[int, ...]:
        """Nothing."""
        return admission.zero()


def calculate(
    plan: TrainingPlan, *, delta: float, budget_epsilon: float | None = None
) -> Calculation:
    """Price a plan.

    Args:
        plan: what would be run.
        delta: δ of the stand-alone ε and of the budget.
        budget_epsilon: ε of an empty budget to answer about.

    Raises:
        Refused: `invalid_request` naming the field; `price_disagreement`; `price_overflow`.
    """
    check_delta(delta, plan.population_clients)
    mechanism, units = plan.mechanism, plan.charge_units
    fit = None
    if budget_epsilon is not None:
        terms = terms_of(epsilon_nano_of(budget_epsilon, "budget_epsilon"), delta)
        fit = _fit(EmptyBudget(terms), plan)
    return Calculation(
        mechanism=mechanism.canonical(),
        event=rdp.event_text(mechanism.canonical()),
        charge_units=units,
        delta=delta,
        epsilon_rdp=standalone_epsilon(mechanism, units, delta),
        epsilon_pld=standalone_epsilon_pld(mechanism, units, delta),
        orders=rdp.ORDERS,
        cost=price(mechanism).total(units),
        engines=(ENGINE, rdp.ENGINE),
        fit=fit,
    )


def _fit(budget: EmptyBudget, plan: TrainingPlan) -> Fit:
    mechanism = plan.mechanism
    return Fit(
        epsilon=budget.terms.epsilon,
        jobs=how_many_more(budget, price(mechanism), plan.charge_units),
        most_rounds=most_rounds(budget, plan),
        least_noise=min_noise(budget, plan),
        largest_cohort=max_cohort(budget, plan),
    )
