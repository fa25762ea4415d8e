"""Every row of the price table: event, two engines, inverse, and how it is charged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dp_accounting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import calibrate
from accounting.budget import terms_of
from accounting.calculator import calculate
from accounting.calibrate import max_cohort, min_noise, most_rounds
from accounting.curve import authoritative, price, standalone_epsilon, standalone_epsilon_pld
from accounting.mechanism import Mechanism
from accounting.plan import TrainingPlan, plan_of
from kit.db import Database
from privacy_gateway import rdp, schemas
from privacy_gateway.errors import Refused
from tests.accounting import support
from tests.accounting.support import VECTORS, EmptyBudget

STEP = 1 / calibrate.NOISE_STEPS_PER_UNIT

PLANS = {
    "poisson": TrainingPlan(1000, 30, 40, 1.3),
    "unsampled": TrainingPlan(100, 100, 12, 6.0, sampling="none"),
    "fixed_size": TrainingPlan(1000, 30, 40, 2.6, sampling="fixed_size"),
    "tree": TrainingPlan(1000, 100, 10, 9.0, sampling="none", algorithm="dp_ftrl"),
    "restarted tree": TrainingPlan(1000, 100, 35, 14.0, sampling="none", algorithm="dp_ftrl"),
    "banded": TrainingPlan(1000, 10, 60, 1.4, algorithm="dp_ftrl", bands=8),
    "adaptive": TrainingPlan(1000, 60, 40, 1.3, clip_norm=None),
    "evaluation": TrainingPlan(1000, 30, 1, 1.3, release="evaluation"),
    "visible poisson": TrainingPlan(1000, 30, 12, 6.0, cohort="visible"),
    "visible fixed size": TrainingPlan(1000, 30, 12, 6.0, sampling="fixed_size", cohort="visible"),
    "visible adaptive": TrainingPlan(1000, 200, 12, 6.0, clip_norm=None, cohort="visible"),
}


@pytest.fixture(params=PLANS, ids=str)
def plan(request: pytest.FixtureRequest) -> TrainingPlan:
    return PLANS[request.param]


def budget(epsilon: float = 4.0, delta: float = 1e-5) -> EmptyBudget:
    return EmptyBudget(terms_of(round(epsilon * rdp.NANO), delta))


def fits(account: EmptyBudget, plan: TrainingPlan) -> bool:
    return calibrate.admits(account, plan.mechanism, plan.charge_units)


def test_the_stored_event_is_the_priced_one(plan: TrainingPlan) -> None:
    assert rdp.event_text(plan.mechanism.canonical()) == repr(plan.mechanism.dp_event())


def test_both_engines_price_it_and_the_dearer_value_is_charged(plan: TrainingPlan) -> None:
    stored = price(plan.mechanism).per_round
    theirs, ours = authoritative(plan.mechanism), rdp.curve(plan.mechanism.canonical())
    for cost, first, second in zip(stored, theirs, ours, strict=True):
        assert first == pytest.approx(second, rel=1e-6, abs=1e-13)
        assert max(first, second) * rdp.PICO * (1 - 1e-15) <= cost
        assert cost <= max(first, second) * rdp.PICO * (1 + 1e-6) + 2


def test_whole_orders_are_those_of_the_event_alone(plan: TrainingPlan) -> None:
    """The event that stands in the ledger, given to the accountant afresh, costs no more."""
    orders = [order for order in rdp.ORDERS if order.is_integer()]
    accountant = dp_accounting.rdp.RdpAccountant(orders, plan.mechanism.neighboring_relation)
    accountant.compose(plan.mechanism.composed_event(plan.charge_units))
    total = dict(zip(rdp.ORDERS, price(plan.mechanism).total(plan.charge_units), strict=True))
    for order, nats in zip(orders, accountant.rdp, strict=True):
        assert total[order] >= nats * rdp.PICO * (1 - 1e-12)


def test_the_form_is_read_back_as_the_same_mechanism(plan: TrainingPlan) -> None:
    from accounting.report import mechanism_of

    assert mechanism_of(plan.mechanism.canonical()) == plan.mechanism


def test_most_rounds_fit_and_one_more_does_not(plan: TrainingPlan) -> None:
    account = budget()
    most = most_rounds(account, plan)
    assert most >= 1
    assert fits(account, plan.changed(rounds=most))
    assert not fits(account, plan.changed(rounds=most + 1))


def test_least_noise_fits_and_a_step_less_does_not(plan: TrainingPlan) -> None:
    account = budget()
    least = min_noise(account, plan)
    assert least is not None
    assert fits(account, plan.changed(noise_multiplier=least))
    assert not fits(account, plan.changed(noise_multiplier=least - STEP))


def test_the_largest_cohort_fits_and_a_larger_one_does_not(plan: TrainingPlan) -> None:
    account = budget()
    largest = max_cohort(account, plan)
    assert largest is not None
    assert fits(account, plan.changed(clients_per_round=largest))
    if plan.sampling == "none":
        assert largest == plan.clients_per_round
    elif plan.cohort == "visible":
        assert largest == plan.population_clients, "the price does not depend on a seen cohort"
    else:
        with_one_more = fits_or_refused(account, plan, largest + 1)
        assert not with_one_more


def fits_or_refused(account: EmptyBudget, plan: TrainingPlan, size: int) -> bool:
    try:
        return fits(account, plan.changed(clients_per_round=size))
    except Refused:
        return False


def test_the_calculator_answers(plan: TrainingPlan) -> None:
    answer = calculate(plan, delta=1e-5, budget_epsilon=4.0)
    assert answer.charge_units == plan.charge_units
    assert answer.epsilon_rdp > 0
    assert answer.epsilon_pld is None or answer.epsilon_pld <= answer.epsilon_rdp + 1e-9
    assert answer.fit is not None
    assert answer.fit.jobs >= 1
    assert answer.fit.most_rounds == most_rounds(budget(), plan)


def test_a_seen_cohort_is_priced_as_if_all_took_part() -> None:
    everybody = price(TrainingPlan(1000, 1000, 1, 2.0, sampling="none").mechanism).per_round
    for sampling in ("poisson", "fixed_size"):
        seen = TrainingPlan(1000, 10, 1, 2.0, sampling=sampling, cohort="visible")
        assert price(seen.mechanism).per_round == everybody
        assert seen.engine_parameters()["sampling_rate"] == 0.01, "the engine samples as asked"
        hidden = TrainingPlan(1000, 10, 1, 2.0, sampling=sampling)
        # A fixed size is priced with half the noise: at high orders its bound gains nothing.
        assert all(
            dear > cheap
            for dear, cheap in zip(everybody[:10], price(hidden.mechanism).per_round, strict=False)
        )
    adaptive = TrainingPlan(1000, 100, 1, 2.0, clip_norm=None, cohort="visible").mechanism
    assert adaptive.sampling_rate == 1.0
    assert price(adaptive).per_round == pytest.approx(everybody, abs=2)
    assert adaptive.clip_count_noise == 5.0, "of the cohort that is really drawn"


def test_the_reference_of_the_banded_matrix() -> None:
    case = VECTORS["tree_and_mf"][1]
    plan = TrainingPlan(1000, 10, 1000, 1.0, algorithm="dp_ftrl", bands=10)
    assert plan.mechanism.sampling_rate == 0.1
    assert plan.mechanism.participations == 100
    epsilon = standalone_epsilon(plan.mechanism, plan.charge_units, case["delta"])
    assert epsilon == pytest.approx(case["eps_rdp"], abs=1e-6)
    same = standalone_epsilon(support.poisson(0.1, 1.0), 100, case["delta"])
    assert epsilon == pytest.approx(same, rel=1e-12)


def test_one_band_is_plain_poisson_sampling() -> None:
    banded = TrainingPlan(1000, 10, 50, 1.0, algorithm="dp_ftrl", bands=1)
    plain = TrainingPlan(1000, 10, 50, 1.0)
    assert price(banded.mechanism).total(1) == pytest.approx(
        price(plain.mechanism).total(50), abs=51
    )
    assert standalone_epsilon_pld(banded.mechanism, 1, 1e-5) == pytest.approx(
        standalone_epsilon_pld(plain.mechanism, 50, 1e-5)
    )


def test_the_reference_of_the_restarted_tree() -> None:
    case = VECTORS["tree_and_mf"][0]
    plan = TrainingPlan(
        1023, 1, 3 * 1023, float(case["noise_multiplier"]), sampling="none", algorithm="dp_ftrl"
    )
    assert (plan.mechanism.steps, plan.charge_units) == (case["steps"], 3)
    for stored, order in zip(price(plan.mechanism).total(3), rdp.ORDERS, strict=True):
        assert stored == pytest.approx(case["zcdp_rho"] * order * rdp.PICO, rel=1e-11)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"bands": 0}, "bands"),
        ({"bands": 61}, "bands"),
        ({"bands": True}, "bands"),
        ({"bands": 8, "clients_per_round": 126}, "clients_per_round"),
        ({"bands": 8, "sampling": "none"}, "sampling"),
        ({"bands": 8, "cohort": "visible"}, "sampling"),
        ({"bands": 8, "clip_norm": None}, "algorithm.clip_norm"),
        ({"bands": 8, "algorithm": "dp_fedavg"}, "bands"),
        ({"bands": None, "algorithm": "dp_fedavg", "cohort": "known"}, "cohort"),
    ],
    ids=repr,
)
def test_plans_without_a_meaning_are_refused(values: dict[str, Any], field: str) -> None:
    good: dict[str, Any] = {
        "population_clients": 1000,
        "clients_per_round": 10,
        "rounds": 60,
        "noise_multiplier": 1.4,
        "algorithm": "dp_ftrl",
    }
    with pytest.raises(Refused) as refusal:
        TrainingPlan(**(good | values))
    assert refusal.value.code == "invalid_request"
    assert refusal.value.errors[0].field == field


@given(
    clients=st.integers(2, 10**6),
    bands=st.integers(1, 50),
    steps=st.integers(1, 2000),
    size=st.integers(1, 1000),
    noise=st.floats(0.3, 50.0),
)
@settings(max_examples=60)
def test_two_engines_agree_on_every_banded_matrix(
    clients: int, bands: int, steps: int, size: int, noise: float
) -> None:
    if bands > min(steps, clients):
        bands = 1
    size = min(size, clients // bands)
    mechanism = Mechanism("banded_gaussian", noise, clients, size, steps=steps, bands=bands)
    per_round = price(mechanism).per_round
    once = price(Mechanism("poisson_gaussian", noise, clients, size * bands)).per_round
    uses = math.ceil(steps / bands)
    assert mechanism.whole
    for total, part in zip(per_round, once, strict=True):
        assert total <= part * uses
        assert total >= (part - 1) * uses - 1


@dataclass(frozen=True)
class Row:
    body: dict[str, Any]
    kind: str
    event: str


ROWS = [
    Row({}, "poisson_gaussian", "PoissonSampledDpEvent"),
    Row({"sampling": "fixed_size"}, "fixed_size_gaussian", "SampledWithoutReplacementDpEvent"),
    Row({"sampling": "none", "clients_per_round": 1000}, "gaussian", "GaussianDpEvent"),
    Row(
        {"algorithm": {"name": "dp_fedavg", "clip_norm": "adaptive"}},
        "adaptive_clipping_gaussian",
        "PoissonSampledDpEvent",
    ),
    Row(
        {"algorithm": {"name": "dp_ftrl"}, "sampling": "none"},
        "tree_gaussian",
        "SingleEpochTreeAggregationDpEvent",
    ),
    Row({"kind": "evaluate"}, "poisson_gaussian", "PoissonSampledDpEvent"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}:{row.body}")
def test_a_job_body_becomes_its_row_of_the_price_table(row: Row) -> None:
    body: dict[str, Any] = {
        "dataset": "ds_1",
        "purpose": "research",
        "algorithm": {"name": "dp_fedavg"},
        "rounds": 20,
        "clients_per_round": 50,
        "noise_multiplier": 1.1,
        "model": {
            "architecture": {"input": {"shape": [4]}, "layers": [{"type": "Dense", "units": 3}]}
        },
    }
    request = schemas.parse(schemas.JobRequest, body | row.body)
    mechanism = plan_of(request, clients=1000).mechanism
    assert mechanism.kind == row.kind
    assert type(mechanism.dp_event()).__name__ == row.event
    assert mechanism.release == ("evaluation" if "kind" in row.body else "update")
    assert max(price(mechanism).per_round) > 0


@pytest.mark.parametrize("name", ["tree", "restarted tree", "banded"])
def test_what_shares_one_noise_is_charged_whole_and_never_given_back(
    database: Database, name: str
) -> None:
    plan = PLANS[name]
    units, cost = plan.charge_units, price(plan.mechanism)
    with database.unit_of_work() as session:
        support.open_population(session)
        support.reserve(session, "job_a", rounds=units, cost=cost)
    with database.unit_of_work() as session:
        taken = support.charge(session, "job_a", rounds=5)
    assert (taken.rounds_charged, taken.whole) == (units, True)
    with database.unit_of_work() as session:
        again = support.charge(session, "job_a", round_first=6, rounds=5, attempt=2, fence=2)
        voided = support.settle(session, "job_a", "cancelled")
    assert (again.rounds_charged, again.entry) == (0, None)
    assert voided is not None
    assert voided.leaf["rounds"] == 0
    after = support.balance(database)
    assert after.charged == cost.total(units)
    assert not any(after.reserved)


def test_what_was_never_started_is_given_back(database: Database) -> None:
    plan = PLANS["restarted tree"]
    with database.unit_of_work() as session:
        support.open_population(session)
        support.reserve(session, "job_a", rounds=plan.charge_units, cost=price(plan.mechanism))
    with database.unit_of_work() as session:
        support.settle(session, "job_a", "cancelled")
    after = support.balance(database)
    assert not any(after.charged)
    assert not any(after.reserved)


def test_the_ledger_refuses_a_price_for_other_people(database: Database) -> None:
    """A price for a larger population would be too low; no caller can pass it by."""
    with database.unit_of_work() as session:
        support.open_population(session)
    other = price(TrainingPlan(2000, 10, 1, 1.0).mechanism)
    with database.unit_of_work() as session:
        refusal = support.refusal_of(lambda: support.reserve(session, "job_a", cost=other))
    assert refusal is not None
    assert refusal.code == "invalid_request"
    error = refusal.errors[0]
    assert (error.field, error.value, error.limit) == ("clients", 2000, 1000)
    assert not any(support.balance(database).reserved)
