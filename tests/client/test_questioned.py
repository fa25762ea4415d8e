"""An entry that charges another job, or a kinder price, than its policy was asked about."""

from __future__ import annotations

from typing import Any

import pytest

from accounting.plan import TrainingPlan
from privacy_gateway import canonical, questioned
from privacy_gateway.decisions import Decisions
from privacy_gateway.questioned import difference, plan_of

N, M, ROUNDS, Z = 1000, 40, 60, 1.5


def question(**job: Any) -> dict[str, Any]:
    asked = {
        "algorithm": "dp_fedavg",
        "clip_norm": 1,
        "rounds": ROUNDS,
        "clients_per_round": M,
        "noise_multiplier": Z,
        "split": "clients",
    }
    return {
        "request": {"id": "job_1", "kind": "train"},
        "subject": {"id": "usr_r"},
        "dataset": {"id": "dat_1", "clients": N},
        "job": asked | job,
    }


def entry(plan: TrainingPlan, kind: str = "reserve", **members: Any) -> dict[str, Any]:
    leaf = {
        "kind": kind,
        "job": "job_1",
        "researcher": "usr_r",
        "mechanism": plan.mechanism.canonical(),
        "rounds": plan.charge_units,
        "facts": {"dataset": "dat_1"},
    }
    return leaf | members


PLAN = TrainingPlan(N, M, ROUNDS, Z)
TREE: dict[str, Any] = {"algorithm": "dp_ftrl"}
PLANS: list[tuple[TrainingPlan, dict[str, Any]]] = [
    (PLAN, {}),
    (TrainingPlan(N, M, ROUNDS, Z, cohort="visible"), {}),
    (TrainingPlan(N, M, ROUNDS, Z, sampling="fixed_size"), {}),
    (TrainingPlan(N, N, ROUNDS, Z, sampling="none"), {"clients_per_round": N}),
    (TrainingPlan(N, M, ROUNDS, Z, clip_norm=None), {"clip_norm": "adaptive"}),
    (TrainingPlan(N, M, ROUNDS, Z, sampling="none", algorithm="dp_ftrl"), TREE),
    (TrainingPlan(N, M, 7, Z, sampling="none", algorithm="dp_ftrl"), TREE | {"rounds": 7}),
    (TrainingPlan(N, M, ROUNDS, Z, algorithm="dp_ftrl", bands=4), TREE),
]


@pytest.mark.parametrize(("plan", "job"), PLANS)
def test_the_plan_that_was_asked_about_is_the_one_that_is_charged(
    plan: TrainingPlan, job: dict[str, Any]
) -> None:
    asked = plan_of(question(**job))
    assert asked is not None
    assert difference(asked, entry(plan)) is None
    assert difference(asked, entry(plan, "charge", rounds=1)) is None


@pytest.mark.parametrize(
    ("leaf", "told"),
    [
        (entry(TrainingPlan(N, M, ROUNDS, 15.0)), "noise multiplier: 1.5, not 15.0"),
        (entry(TrainingPlan(N, 1, ROUNDS, Z)), "cohort: 40, not 1"),
        (entry(TrainingPlan(N * 9, M, ROUNDS, Z)), "number of clients"),
        (entry(TrainingPlan(N, M, 1, Z)), "number of rounds: 60, not 1"),
        (entry(TrainingPlan(N, M, ROUNDS, Z, release="query")), "release"),
        (entry(TrainingPlan(N, M, 3, Z, sampling="none", algorithm="dp_ftrl")), "mechanism"),
        (entry(PLAN, job="job_2"), "job: job_1, not job_2"),
        (entry(PLAN, "charge", job="job_2"), "job: job_1, not job_2"),
    ],
)
def test_a_kinder_price_than_the_policy_was_asked_about_is_found(
    leaf: dict[str, Any], told: str
) -> None:
    assert told in str(difference(plan_of(question()), leaf))


def test_a_short_tree_does_not_pay_for_a_long_job() -> None:
    short = entry(TrainingPlan(N, M, 3, Z, sampling="none", algorithm="dp_ftrl"))
    asked = plan_of(question(**TREE))
    assert "length of a tree: 25, not 3" in str(difference(asked, short))
    once = entry(TrainingPlan(N, M, 25, Z, sampling="none", algorithm="dp_ftrl"))
    assert "number of rounds: 3, not 1" in str(difference(asked, once))


def test_a_question_from_before_says_nothing() -> None:
    assert plan_of({"job": {"rounds": 1}, "dataset": {"id": "dat_1"}}) is None
    assert questioned.difference(None, entry(PLAN)) is None


def logged(asked: dict[str, Any]) -> tuple[Decisions, dict[str, str]]:
    """A decision log of one decision that allows what was asked, and what an entry says of it."""
    said = {"verdict": {"outcome": "allow"}, "code": None, "fault": None}
    names = {"input": canonical.digest(asked, floats=True), "policy": "2" * 64, "library": "1" * 64}
    digest = canonical.digest(said | names)
    form = said | {
        "id": "dec_1",
        "outcome": "allow",
        "input": asked,
        "input_digest": names["input"],
        "digest": digest,
        "revision_digest": names["policy"],
        "library_digest": names["library"],
    }
    facts = {"dataset": "dat_1", "decision_id": "dec_1", "decision_digest": digest}
    return Decisions([canonical.dumps(form, floats=True)]), facts


def test_the_decision_log_finds_it() -> None:
    log, facts = logged(question())
    assert list(log.findings(entry(PLAN, facts=facts))) == []
    for leaf in (entry(TrainingPlan(N, M, ROUNDS, 15.0)), entry(PLAN, job="job_2")):
        assert [kind for kind, _ in log.findings(leaf | {"facts": facts})] == ["decision"]


@pytest.mark.parametrize("job", [{"rounds": "many"}, {"clients_per_round": None}])
def test_a_question_with_members_of_other_types_is_no_decision(job: dict[str, Any]) -> None:
    log, _ = logged(question(**job))
    assert log.unreadable == [1]
