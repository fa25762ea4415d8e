"""The exact filter for unsampled Gaussians: Σ 1/z² ≤ μ², and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import ledger
from accounting.budget import terms_of
from accounting.calculator import EmptyBudget
from accounting.calibrate import max_rounds, min_noise
from accounting.curve import price, standalone_epsilon_pld
from accounting.mechanism import Mechanism
from accounting.plan import TrainingPlan
from kit.db import Database
from privacy_gateway import chain, gdp, rdp
from privacy_gateway.verify import verify
from tests.accounting import support
from tests.accounting.support import NOW, balance, export, refusal_of

GAUSSIAN = Mechanism("gaussian", 4.0)
QUIET = Mechanism("gaussian", 20.0)


def test_the_limit_is_mu_squared_of_the_published_formula() -> None:
    """Balle and Wang 2018: δ(ε) of a Gaussian with μ = 1/σ, by the normal distribution alone."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    for epsilon, delta in ((1.0, "1e-06"), (8.0, "1e-05"), (0.1, "0.001"), (30.0, "1e-09")):
        limit = gdp.limits(round(epsilon * rdp.NANO), delta)[gdp.INDEX]
        mu = math.sqrt(limit / rdp.PICO)
        exact = normal(-epsilon / mu + mu / 2) - math.exp(epsilon) * normal(-epsilon / mu - mu / 2)
        assert exact == pytest.approx(float(delta), rel=1e-6)


def test_the_pld_of_a_full_budget_is_its_epsilon() -> None:
    terms = terms_of(3 * rdp.NANO, 1e-5, filter="gdp")
    rounds = terms.limits[gdp.INDEX] // price(GAUSSIAN).per_round[gdp.INDEX]
    epsilon = standalone_epsilon_pld(GAUSSIAN, rounds, 1e-5)
    assert epsilon is not None
    assert 2.5 < epsilon <= 3.0 + 1e-3


@settings(max_examples=40)
@given(
    epsilon=st.integers(10**5, 10**12),
    delta=st.floats(-12, -3).map(lambda exponent: repr(10.0**exponent)),
)
def test_limits_and_odometer_are_rounded_towards_privacy(epsilon: int, delta: str) -> None:
    limit = gdp.limits(epsilon, delta)
    assert gdp.epsilon_spent(delta, limit) <= epsilon
    beyond = tuple(part + 1 for part in limit)
    assert gdp.epsilon_spent(delta, beyond) > epsilon
    assert sum(part >= 0 for part in limit) <= 1


@given(noise=st.floats(0.01, 1e4))
@settings(max_examples=200)
def test_a_price_is_never_below_the_exact_fraction(noise: float) -> None:
    cost = price(Mechanism("gaussian", noise)).per_round[gdp.INDEX]
    exact = 1 / Fraction(noise) ** 2 * rdp.PICO
    assert cost >= exact
    assert cost <= exact * (1 + Fraction(1, 10**12)) + 1


def test_it_admits_more_than_the_weighted_filter() -> None:
    cost = price(GAUSSIAN)
    exact = EmptyBudget(terms_of(8 * rdp.NANO, 1e-6, filter="gdp"))
    weighted = EmptyBudget(terms_of(8 * rdp.NANO, 1e-6))
    assert max_rounds(exact, GAUSSIAN) > 1.15 * max_rounds(weighted, GAUSSIAN)
    assert exact.limits[gdp.INDEX] // cost.per_round[gdp.INDEX] == max_rounds(exact, GAUSSIAN)


def test_the_inverse_answers_are_the_last_that_fit() -> None:
    account = EmptyBudget(terms_of(2 * rdp.NANO, 1e-5, filter="gdp"))
    plan = TrainingPlan(100, 100, 50, 1.0, sampling="none")
    least = min_noise(account, plan)
    assert least is not None
    room = account.limits[gdp.INDEX]
    for noise, fits in ((least, True), (least - 1e-4, False)):
        total = price(Mechanism("gaussian", noise)).total(50)[gdp.INDEX]
        assert (total <= room) is fits


def opened(database: Database, epsilon: float = 2.0) -> int:
    """A population with the exact filter; how many single rounds at z = 4 it holds."""
    with database.unit_of_work() as session:
        first = support.open_population(session, epsilon=epsilon, filter="gdp")
    return first.terms.limits[gdp.INDEX] // price(GAUSSIAN).per_round[gdp.INDEX]


def test_the_ledger_admits_to_the_last_round_and_verifies(database: Database) -> None:
    most = opened(database)
    with database.unit_of_work() as session:
        support.reserve(session, "job_a", rounds=most - 1, cost=price(GAUSSIAN))
    with database.unit_of_work() as session:
        support.charge(session, "job_a", rounds=most - 2)
        support.settle(session, "job_a")
    with database.unit_of_work() as session:
        refusal = refusal_of(
            lambda: support.reserve(session, "job_b", rounds=3, cost=price(GAUSSIAN))
        )
    assert refusal is not None
    assert refusal.code == "budget_exceeded"
    assert refusal.facts["epsilon_after"] > 2.0
    with database.unit_of_work() as session:
        support.reserve(session, "job_c", rounds=2, cost=price(GAUSSIAN))
    after = balance(database)
    assert after.terms.filter == "gdp"
    assert after.epsilon_committed <= 2.0
    report = verify(export(database))
    assert report.ok, report


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (TrainingPlan(1000, 10, 1, 4.0), "sampling"),
        (TrainingPlan(1000, 10, 1, 4.0, sampling="fixed_size"), "sampling"),
        (TrainingPlan(1000, 100, 1, 4.0, clip_norm=None), "algorithm.clip_norm"),
        (
            TrainingPlan(1000, 10, 9, 4.0, sampling="none", algorithm="dp_ftrl"),
            "algorithm.name",
        ),
        (TrainingPlan(1000, 10, 9, 4.0, algorithm="dp_ftrl", bands=2), "algorithm.name"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mechanism.kind,
)
def test_every_other_mechanism_is_refused_by_name(
    database: Database, plan: TrainingPlan, field: str
) -> None:
    opened(database)
    with database.unit_of_work() as session:
        refusal = refusal_of(
            lambda: support.reserve(session, "job_a", rounds=1, cost=price(plan.mechanism))
        )
    assert refusal is not None
    assert refusal.code == "invalid_request"
    assert (refusal.errors[0].field, refusal.errors[0].value) == (field, plan.mechanism.kind)
    assert plan.mechanism.kind in refusal.detail


def test_a_seen_cohort_is_an_unsampled_gaussian(database: Database) -> None:
    opened(database)
    seen = TrainingPlan(1000, 10, 1, 4.0, cohort="visible").mechanism
    with database.unit_of_work() as session:
        support.reserve(session, "job_a", rounds=1, cost=price(seen))
    assert any(balance(database).reserved)


def test_quota_grant_and_past_live_by_the_same_filter(database: Database) -> None:
    opened(database)
    with database.unit_of_work() as session:
        ledger.set_quota(
            session,
            population_id="pop_a",
            researcher_id="usr_r",
            epsilon=1.0,
            actor_id="usr_owner",
            now=NOW,
        )
        share = ledger.quota(session, "pop_a", "usr_r")
    assert share.terms is not None
    assert share.terms.filter == "gdp"
    room = share.terms.limits[gdp.INDEX] // price(QUIET).per_round[gdp.INDEX]
    with database.unit_of_work() as session:
        refusal = refusal_of(
            lambda: support.reserve(session, "job_a", rounds=room + 1, cost=price(QUIET))
        )
        support.reserve(session, "job_b", rounds=room, cost=price(QUIET))
    assert refusal is not None
    assert refusal.code == "quota_exceeded"
    with database.unit_of_work() as session:
        ledger.grant(
            session,
            population_id="pop_a",
            epsilon=1.0,
            reason="more",
            actor_id="usr_owner",
            now=NOW + timedelta(hours=2),
        )
    assert balance(database).limits == gdp.limits(3 * rdp.NANO, "1e-06")
    with database.read() as session:
        then = ledger.odometer(session, "pop_a", at=NOW + timedelta(hours=1))
    assert then.limits == gdp.limits(2 * rdp.NANO, "1e-06")
    assert then.epsilon_reserved == balance(database).epsilon_committed
    report = verify(export(database))
    assert report.ok, report


def test_an_owner_cannot_mix_the_filters() -> None:
    for values, field in (
        ({"filter": "pld"}, "filter"),
        ({"filter": "gdp", "weights": (10**13,) * 16}, "weights"),
    ):
        refusal = refusal_of(lambda values=values: terms_of(rdp.NANO, 1e-6, **values))
        assert refusal is not None
        assert refusal.errors[0].field == field
    refusal = refusal_of(lambda: terms_of(1, 1e-12, filter="gdp"))
    assert refusal is not None
    assert refusal.errors[0].field == "epsilon"


def forged(lines: list[bytes], kind: str, change: Callable[[dict[str, Any]], None]) -> list[bytes]:
    """The same export with one kind of entry changed, and every seal made anew."""
    head, made = chain.GENESIS, []
    for raw in lines:
        line = json.loads(raw)
        if "leaf" not in line:
            if "head" in line:
                line["head"]["hash"] = head
            made.append(json.dumps(line, sort_keys=True, separators=(",", ":")).encode())
            continue
        if line["leaf"]["kind"] == kind:
            change(line["leaf"])
        leaf = chain.leaf_bytes(line["leaf"])
        sealed = chain.seal(head, leaf)
        made.append(chain.write_line(sealed, leaf, head))
        head = sealed
    return made


def cheaper(leaf: dict[str, Any]) -> None:
    """One unit below 1/z², within what two engines may differ by."""
    leaf["per_round"][gdp.INDEX] = rdp.PICO // 16 - 1
    leaf["cost"][gdp.INDEX] = leaf["rounds"] * leaf["per_round"][gdp.INDEX]


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("open", lambda leaf: leaf["terms"].pop("filter"), "filter that is named"),
        ("reserve", lambda leaf: leaf["mechanism"].update(kind="tree_gaussian"), "filter gdp"),
        ("reserve", cheaper, "priced below"),
    ],
)
def test_a_forged_ledger_is_found(
    sqlite_database: Database, kind: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    opened(sqlite_database)
    with sqlite_database.unit_of_work() as session:
        support.reserve(session, "job_a", rounds=2, cost=price(GAUSSIAN))
    lines = export(sqlite_database)
    assert verify(lines).ok
    report = verify(forged(lines, kind, change))
    assert not report.ok
    assert any(said in str(finding) for finding in report.problems), report.problems
