"""What is asked of a policy before it may decide: probes, ordinary jobs, agreement of engines."""

from __future__ import annotations

import pytest

from policies.activation import examine
from policies.embedded import EmbeddedEngine
from policies.engine import Evaluation, Revision
from policies.opa import OpaEngine
from policies.probes import floor_of, must_deny
from privacy_gateway.errors import Refused
from tests.support.questions import EXAMPLES, example

SOURCE, TESTS = example("price_cap")
FLOOR = floor_of(minimum_clients_per_round=2, minimum_noise_multiplier=0.3)


def test_without_the_floors_the_policy_itself_must_deny_every_probe(
    embedded: EmbeddedEngine,
) -> None:
    weak = (
        SOURCE.replace("deny contains bounds.noise_at_least_ppm(300000)\n\n", "")
        .replace("deny contains bounds.clients_per_round_at_least(10)\n\n", "")
        .replace("import data.gateway.bounds\n", "")
    )
    revision = Revision.of_text(weak, "package t\n\ntest_yes if true\n")
    assert examine([embedded], revision, floor=FLOOR).passed
    problems = " ".join(error.message for error in examine([embedded], revision).problems)
    assert "probe noise_too_small" in problems
    assert "probe cohort_of_one" in problems


HALF_DECIDED = """package owner.course

import data.gateway.answer
import data.gateway.approvals
import data.gateway.people
import data.gateway.price

deny contains people.purpose_in({"teaching"})

decision := answer.of(deny, %s, set())
"""
BY_ABOVE = 'approvals.by_above(price.one, "owner", 1, 48)'
DEAR_IS_APPROVED = """package owner.course_test

import data.owner.course

test_dear_jobs_wait if {
	count(course.decision.approvals) == 1 with input as {
		"job": {"purpose": "teaching"},
		"cost": {"epsilon_nano": 5000000000},
	}
}
"""


@pytest.mark.parametrize(
    ("approvals", "fault"),
    [
        pytest.param(f"{{{BY_ABOVE}}}", "defines no decision", id="undefined when cheap"),
        pytest.param(
            f'{{x | x := {BY_ABOVE}}} | {{y | y := {{"role": "owner", "count": 0}}; '
            "input.cost.epsilon_nano < 5000}",
            "decision.approvals lacks within_hours",
            id="malformed when cheap",
        ),
        pytest.param(
            f'{{x | x := {BY_ABOVE}; input.subject.roles[0] == "researcher"}} | '
            '{y | y := approvals.by("dean", 1, 1); input.cost.epsilon_nano > 1000000000}',
            "decision.approvals.role is none of admin, auditor, owner",
            id="nobody has that role",
        ),
    ],
)
def test_a_policy_that_decides_only_some_jobs_is_refused(
    embedded: EmbeddedEngine, approvals: str, fault: str
) -> None:
    revision = Revision.of_text(HALF_DECIDED % approvals, DEAR_IS_APPROVED)
    problems = examine([embedded], revision, floor=FLOOR).problems
    assert any(fault in error.message and error.field == "source" for error in problems), problems
    messages = [error.message for error in problems]
    assert len(messages) == len(set(messages)), "a fault is told once"


@pytest.mark.parametrize("role", ["researcher", "dean"])
def test_an_approval_nobody_can_give_is_refused(embedded: EmbeddedEngine, role: str) -> None:
    source = HALF_DECIDED % f'{{approvals.by("{role}", 1, 48)}}'
    revision = Revision.of_text(source, DEAR_IS_APPROVED)
    problems = examine([embedded], revision, floor=FLOOR).problems
    assert any("decision.approvals.role" in error.message for error in problems), problems


def test_more_owners_than_there_are_are_refused_however_they_are_counted(
    embedded: EmbeddedEngine,
) -> None:
    counted = '{approvals.by("owner", input.job.rounds, 48)}'
    revision = Revision.of_text(HALF_DECIDED % counted, DEAR_IS_APPROVED)
    problems = examine([embedded], revision, floor=FLOOR).problems
    said = [error.message for error in problems if "approval_impossible" in error.message]
    assert said
    assert "a data set has one" in said[0]


ONE_PROJECT = """package owner.lab

decision := {"allow": count(deny) == 0, "deny": deny}

deny contains denial("project", "atlas") if input.job.project != "atlas"

deny contains denial("purpose", "research") if input.job.purpose != "research"
%s
denial(field, limit) := {"code": "no", "field": field, "message": "no", "limit": limit}
"""
CAPPED = """
deny contains denial("price", 1) if input.cost.budget_epsilon_nano_after > input.budget.epsilon_nano

deny contains denial("noise", 1) if not sound

sound if {
	is_number(input.derived.noise_multiplier_ppm)
	input.derived.noise_multiplier_ppm > 100000
}

deny contains denial("cohort", 2) if input.job.clients_per_round < 2
"""


def test_a_policy_open_to_one_project_only_is_probed_as_that_project(
    embedded: EmbeddedEngine,
) -> None:
    tests = "package t\n\ntest_yes if true\n"
    lax = examine([embedded], Revision.of_text(ONE_PROJECT % "", tests)).problems
    assert {error.message.split(" ")[1] for error in lax} == {
        "epsilon_over_budget",
        "noise_too_small",
        "noise_not_a_number",
        "cohort_of_one",
    }
    capped = examine([embedded], Revision.of_text(ONE_PROJECT % CAPPED, tests))
    assert capped.problems == ()


def test_a_policy_that_stumbles_over_a_used_up_share_is_refused(embedded: EmbeddedEngine) -> None:
    left = 'object.get(input, ["budget", "project_quota", "remaining_epsilon_nano"], 0)'
    source = SOURCE.replace(
        "{obligations.max_parallel_jobs(2)}",
        f"{{obligations.max_parallel_jobs({left} / 80000000)}}",
    )
    assert source != SOURCE
    problems = examine([embedded], Revision.of_text(source, TESTS), floor=FLOOR).problems
    assert any("left_of_the_project_quota" in str(error.value) for error in problems), problems


def test_an_undefined_decision_is_refused_with_the_way_to_write_it(
    embedded: EmbeddedEngine,
) -> None:
    wrong = Revision.of_text(HALF_DECIDED % f"{{{BY_ABOVE}}}", DEAR_IS_APPROVED)
    problems = examine([embedded], wrong, floor=FLOOR).problems
    assert "approve contains" in problems[0].message
    for right in (f"{{x | x := {BY_ABOVE}}}", "approve"):
        source = f"{HALF_DECIDED % right}\napprove contains {BY_ABOVE}\n"
        examined = examine([embedded], Revision.of_text(source, DEAR_IS_APPROVED), floor=FLOOR)
        assert examined.problems == ()


def test_the_probes_cover_what_no_policy_may_allow() -> None:
    names = {probe.name for probe in must_deny(SOURCE)}
    assert names == {
        "epsilon_over_budget",
        "noise_too_small",
        "noise_not_a_number",
        "cohort_of_one",
        "unknown_purpose",
    }
    purposes = {probe.question.document["job"]["purpose"] for probe in must_deny(SOURCE)}
    assert {"research", "teaching"} <= purposes


@pytest.mark.parametrize(
    "condition",
    [
        'data.gateway.windows.not_before("2027-07-05T00:00:00Z")',
        'data.gateway.windows.weekday_in({"wednesday"})',
        'data.gateway.people.organisation_in({"st_mary"})',
        'data.gateway.people.role_in({"owner"})',
    ],
)
def test_a_probe_is_asked_where_and_when_the_policy_would_listen(
    embedded: EmbeddedEngine, condition: str
) -> None:
    module = condition.split(".")[2]
    rule = condition.removeprefix("data.gateway.")
    source = (
        f"package open\n\nimport data.gateway.answer\nimport data.gateway.{module}\n\n"
        f"deny contains {rule}\n\ndecision := answer.plain(deny)\n"
    )
    revision = Revision.of_text(source, "package t\n\ntest_yes if true\n")
    problems = [error.message for error in examine([embedded], revision, floor=FLOOR).problems]
    assert any("probe unknown_purpose" in problem for problem in problems), problems


def test_engines_that_disagree_keep_a_revision_out(embedded: EmbeddedEngine) -> None:
    class Contrary(EmbeddedEngine):
        name = "contrary"

        def evaluate(self, *_: object) -> Evaluation:
            return Evaluation(answer={"allow": False, "deny": []})

    other = Contrary(1)
    try:
        result = examine([embedded, other], Revision.of_text(SOURCE, TESTS), floor=FLOOR)
    finally:
        other.close()
    assert any("differently" in error.message for error in result.problems)


def test_an_engine_that_is_down_keeps_a_revision_out(embedded: EmbeddedEngine) -> None:
    down = OpaEngine("http://127.0.0.1:9")
    with pytest.raises(Refused, match="policy_unavailable"):
        examine([down, embedded], Revision.of_text(SOURCE, TESTS))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_pass_on_both_engines(
    name: str, embedded: EmbeddedEngine, opa: OpaEngine
) -> None:
    result = examine([opa, embedded], Revision.of_text(*example(name)))
    assert result.problems == ()
    assert set(result.tests) == {"opa", "embedded"}


BY_PROJECT = """package owner.projects

import data.gateway.answer
import data.gateway.people
import data.gateway.quota

deny contains people.project_in({"lung"})

deny contains quota.project_with_share

decision := answer.plain(deny)
"""


def test_a_policy_for_projects_is_asked_in_their_name(embedded: EmbeddedEngine) -> None:
    revision = Revision.of_text(BY_PROJECT, "package t\n\ntest_yes if true\n")
    problems = [error.message for error in examine([embedded], revision, floor=FLOOR).problems]
    assert len(problems) == 1
    assert "probe unknown_purpose" in problems[0]
    bound = BY_PROJECT.replace(
        "decision :=", 'deny contains people.purpose_in({"x"})\n\ndecision :='
    )
    revision = Revision.of_text(bound, "package t\n\ntest_yes if true\n")
    assert examine([embedded], revision, floor=FLOOR).passed
