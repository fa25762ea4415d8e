"""Inverse answers: admitted themselves, refused one step further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import calibrate
from accounting import filter as admission
from accounting.budget import single_job_limits, terms_of
from accounting.calculator import calculate
from accounting.calibrate import how_many_more, max_cohort, max_rounds, min_noise
from accounting.curve import price
from accounting.mechanism import MAX_ROUNDS, MIN_NOISE
from accounting.plan import TrainingPlan
from privacy_gateway import rdp
from privacy_gateway.errors import Refused
from tests.accounting.support import VECTORS, fraction, poisson

STEP = 1 / calibrate.NOISE_STEPS_PER_UNIT


@dataclass(frozen=True)
class Account:
    limits: tuple[int, ...]
    charged: tuple[int, ...] = admission.zero()
    reserved: tuple[int, ...] = admission.zero()


def budget(epsilon: float, delta: float) -> Account:
    return Account(terms_of(round(epsilon * rdp.NANO), delta).limits)


ENDLESS = Account((rdp.INT64_MAX,) * len(rdp.ORDERS))


def exactly(plan: TrainingPlan) -> Account:
    """A budget with room for this plan and not for one unit more."""
    return Account(price(plan.mechanism).total(plan.charge_units))


def fits(account: Account, plan: TrainingPlan) -> bool:
    return calibrate.admits(account, plan.mechanism, plan.charge_units)


@pytest.mark.parametrize("case", VECTORS["inverse"], ids=repr)
def test_reference_answers(case: dict[str, Any]) -> None:
    account = Account(single_job_limits(round(case["epsilon"] * rdp.NANO), case["delta"]))
    if case["kind"] == "max_rounds_single_job":
        assert max_rounds(account, poisson(case["q"], case["z"])) == case["expected"]
        return
    size, clients = fraction(case["q"])
    answer = min_noise(account, TrainingPlan(clients, size, case["T"], 1.0))
    assert answer == pytest.approx(case["expected"], abs=case["tol"])


@settings(max_examples=25)
@given(
    size=st.integers(1, 400),
    rounds=st.integers(1, 500),
    noise=st.floats(0.3, 20.0),
    epsilon=st.floats(0.5, 20.0),
)
def test_every_answer_is_the_last_that_fits(
    size: int, rounds: int, noise: float, epsilon: float
) -> None:
    account = budget(epsilon, 1e-5)
    plan = TrainingPlan(1000, size, rounds, noise)
    most = max_rounds(account, plan.mechanism)
    assert most == 0 or fits(account, plan.changed(rounds=most))
    if most < 10**6:
        assert not fits(account, plan.changed(rounds=most + 1))
    least = min_noise(account, plan)
    if least is not None:
        assert fits(account, plan.changed(noise_multiplier=least))
        assert least < 0.01 + STEP or not fits(account, plan.changed(noise_multiplier=least - STEP))
    largest = max_cohort(account, plan)
    if largest is None:
        assert not fits(account, plan.changed(clients_per_round=1))
    else:
        assert fits(account, plan.changed(clients_per_round=largest))
        assert largest == 1000 or not fits(account, plan.changed(clients_per_round=largest + 1))


def test_how_many_more_is_what_the_filter_admits() -> None:
    account, cost = budget(8.0, 1e-6), price(poisson(0.01, 1.0))
    assert how_many_more(account, cost, 100) == 107
    used = Account(account.limits, charged=cost.total(100 * 107))
    assert how_many_more(used, cost, 100) == 0
    assert how_many_more(account, price(poisson(1, 0.01)), 10**6) == 0


@pytest.mark.parametrize(
    "plan",
    [
        TrainingPlan(1000, 10, 100, 1.0),
        TrainingPlan(100, 100, 10, 3.0, sampling="none"),
        TrainingPlan(1000, 100, 50, 12.0, sampling="none", algorithm="dp_ftrl"),
        TrainingPlan(1000, 10, 50, 1.0, algorithm="dp_ftrl", bands=5),
    ],
    ids=["poisson", "unsampled", "tree", "banded"],
)
def test_a_quota_counts_too(plan: TrainingPlan) -> None:
    """One quota alone, and those of researcher and project together."""
    account, quota, loose = budget(8.0, 1e-6), budget(1.5, 1e-6), budget(4.0, 1e-6)
    cost, units = price(plan.mechanism), plan.charge_units
    assert fits(account, plan)
    for both in (quota, (loose, quota), [quota, loose]):
        more = how_many_more(account, cost, units, quota=both)
        assert more == how_many_more(quota, cost, units) < how_many_more(account, cost, units)
        most = calibrate.most_rounds(account, plan, quota=both)
        assert most == calibrate.most_rounds(quota, plan) < calibrate.most_rounds(account, plan)
        noise = min_noise(account, plan, quota=both)
        assert noise == min_noise(quota, plan) != min_noise(account, plan)
        cohort = max_cohort(account, plan, quota=both)
        assert cohort == max_cohort(quota, plan) != max_cohort(account, plan)


def test_a_budget_for_one_job_alone_has_that_job_as_its_answer() -> None:
    """At both ends of what is searched, the last unit of room counts too."""
    tree = TrainingPlan(1000, 100, 1, 1.0, sampling="none", algorithm="dp_ftrl")
    assert calibrate.most_rounds(exactly(tree), tree.changed(rounds=500)) == 1
    widest = TrainingPlan(10**6, 1, MAX_ROUNDS, 5.0, algorithm="dp_ftrl", bands=MAX_ROUNDS)
    assert calibrate.most_rounds(exactly(widest), widest) == MAX_ROUNDS
    loudest = TrainingPlan(1000, 2, 1, 0.1999, clip_norm=None)
    assert min_noise(exactly(loudest), loudest) == 0.1999, "below twice σ_b"
    everybody = TrainingPlan(11, 11, 1, 1.0, clip_norm=None)
    assert max_cohort(exactly(everybody), everybody) == 11
    alone = TrainingPlan(1000, 1, 100, 1.0)
    assert max_cohort(exactly(alone), alone) == 1
    rare = TrainingPlan(10**9, 1, 1, 1.0)
    assert min(price(rare.mechanism).per_round) == 1
    assert max_cohort(Account((1,) * 16), rare) is not None


def test_room_for_everything_is_answered_by_the_bounds_of_a_plan() -> None:
    tree = TrainingPlan(1000, 100, 50, 30.0, sampling="none", algorithm="dp_ftrl")
    assert calibrate.most_rounds(ENDLESS, tree) == MAX_ROUNDS
    quiet = TrainingPlan(10, 10, 1, 10_000.0, sampling="none")
    assert max_rounds(ENDLESS, quiet.mechanism) == MAX_ROUNDS
    free = TrainingPlan(1000, 1, 1, 1.0, release="evaluation", public=True)
    assert max_rounds(budget(1.0, 1e-6), free.mechanism) == MAX_ROUNDS
    banded = TrainingPlan(1000, 10, 50, 4.0, algorithm="dp_ftrl", bands=5)
    assert max_cohort(ENDLESS, banded) == 1000 // 5, "a round takes its clients from one group"
    assert min_noise(ENDLESS, banded, least=0.0) == MIN_NOISE


def test_without_sampling_everybody_takes_part_or_nobody() -> None:
    plan = TrainingPlan(100, 100, 10, 1.2, sampling="none")
    assert max_cohort(exactly(plan), plan) == 100
    assert max_cohort(exactly(plan), plan.changed(rounds=11)) is None


def test_a_floor_is_respected_and_nothing_can_mean_nothing() -> None:
    account = budget(8.0, 1e-5)
    plan = TrainingPlan(1000, 10, 1, 5.0)
    assert min_noise(account, plan, least=2.5) == 2.5
    assert min_noise(account, plan, least=2.50005) == 2.5001, "the next step of the grid"
    exhausted = Account((-1,) * 16)
    assert min_noise(exhausted, plan) is None
    assert max_cohort(exhausted, plan) is None
    assert max_rounds(exhausted, plan.mechanism) == 0


@pytest.mark.parametrize(
    "plan",
    [
        TrainingPlan(100, 50, 10, 1.2, clip_norm=None),
        TrainingPlan(100, 100, 10, 1.2, sampling="none"),
        TrainingPlan(100, 5, 100, 1.2, sampling="none", algorithm="dp_ftrl"),
    ],
    ids=["adaptive", "gaussian", "tree"],
)
def test_other_mechanisms_have_answers_too(plan: TrainingPlan) -> None:
    account = budget(8.0, 1e-4)
    least = min_noise(account, plan)
    assert least is not None
    assert fits(account, plan.changed(noise_multiplier=least))
    assert not fits(account, plan.changed(noise_multiplier=least - STEP))
    assert max_cohort(account, plan.changed(noise_multiplier=least)) is not None


def test_the_calculator_answers_everything_at_once() -> None:
    answer = calculate(TrainingPlan(3383, 120, 100, 1.2), delta=1e-5, budget_epsilon=8.0)
    assert answer.epsilon_rdp == pytest.approx(1.986115, abs=1e-6)
    assert answer.epsilon_pld is not None
    assert answer.epsilon_pld < answer.epsilon_rdp
    assert answer.fit is not None
    assert answer.fit.jobs == 16
    assert answer.fit.most_rounds >= 1600
    announcement = calculate(TrainingPlan(3, 2, 10, 0.05), delta=1e-5, budget_epsilon=8.0)
    assert announcement.epsilon_rdp == pytest.approx(2267.18, abs=0.005)
    assert announcement.fit is not None
    assert (announcement.fit.jobs, announcement.fit.most_rounds) == (0, 0)
    assert calculate(TrainingPlan(3, 2, 10, 1.0), delta=1e-5).fit is None
    with pytest.raises(Refused):
        calculate(TrainingPlan(3383, 120, 100, 1.2), delta=1e-4)


@pytest.mark.parametrize(
    "plan",
    [
        TrainingPlan(1000, 10, 50, 2.0),
        TrainingPlan(1000, 100, 50, 30.0, sampling="none", algorithm="dp_ftrl"),
        TrainingPlan(1000, 10, 50, 4.0, algorithm="dp_ftrl", bands=5),
    ],
    ids=["poisson", "tree", "banded"],
)
@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_the_most_rounds_fit_and_one_more_does_not(plan: TrainingPlan, epsilon: float) -> None:
    account = budget(epsilon, 1e-5)
    most = calibrate.most_rounds(account, plan)
    assert most >= 1
    assert fits(account, plan.changed(rounds=most))
    assert most == MAX_ROUNDS or not fits(account, plan.changed(rounds=most + 1))


def test_where_not_even_one_tree_fits_there_are_no_rounds() -> None:
    loud = TrainingPlan(1000, 100, 50, 0.3, sampling="none", algorithm="dp_ftrl")
    banded = TrainingPlan(1000, 10, 50, 0.05, algorithm="dp_ftrl", bands=5)
    for plan in (loud, banded, TrainingPlan(1000, 10, 50, 0.05)):
        assert calibrate.most_rounds(budget(0.1, 1e-5), plan) == 0


def test_a_price_that_no_account_can_hold_is_not_admitted() -> None:
    mechanism = TrainingPlan(1000, 100, 1, 0.01).mechanism
    assert not calibrate.admits(budget(8.0, 1e-5), mechanism, 10**12)


def test_noise_that_adaptive_clipping_forbids_is_no_answer() -> None:
    """Beyond 2σ_b there is no plan, so a search for more noise ends there."""
    plan = TrainingPlan(1000, 2, 100, 0.1, clip_norm=None)
    assert min_noise(budget(0.2, 1e-5), plan) is None
    loose = min_noise(budget(10_000.0, 1e-5), plan)
    assert loose is not None
    assert loose < 0.2


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_an_engine_that_is_one_step_off_changes_no_answer(off: int) -> None:
    """The search is quick by one engine and proven by the other; the proof decides."""
    for low, high in ((0, 0), (0, 1), (0, 6), (3, 9), (2, 1)):
        for least in range(low, high + 2):
            tried: list[int] = []

            def proven(step: int, low: int = low, high: int = high, least: int = least) -> bool:
                return low <= step <= high and step >= least

            def quick(step: int, least: int = least, tried: list[int] = tried) -> bool:
                tried.append(step)
                return step >= least + off

            found = calibrate._least(quick, proven, low, high)
            none = low > high or least > high or least + off > high
            assert found == (None if none else least), (low, high, least)
            assert all(low <= step <= high for step in tried)


def test_rounds_end_where_their_price_no_longer_fits_a_number() -> None:
    """An account without limits still holds 64 bits."""
    account, mechanism = ENDLESS, poisson(1.0, 1.0)
    most = max_rounds(account, mechanism)
    assert 1 < most < MAX_ROUNDS
    assert max(price(mechanism).total(most)) <= rdp.INT64_MAX
    with pytest.raises(Refused) as refusal:
        price(mechanism).total(most + 1)
    assert refusal.value.code == "price_overflow"
    assert how_many_more(account, price(mechanism), most + 1) == 0
