"""Both engines decide alike, at every boundary and away from them."""

from __future__ import annotations

import random
from itertools import product

import pytest

from policies.ask import ask
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.opa import OpaEngine
from policies.question import Question
from tests.support.questions import EPSILON, example, question

PATIENCE = 10.0
"""Seconds; this test is about answers, not about time."""

BOUNDARIES = {
    "price_cap": {
        "job__purpose": ["research", "teaching", "marketing", "Research", ""],
        "cost__epsilon_nano": [0, 1, 2 * EPSILON - 1, 2 * EPSILON, 2 * EPSILON + 1, 2**63 - 1],
        "cost__budget_epsilon_nano_after": [0, 8 * EPSILON, 8 * EPSILON + 1, 2**63 - 1],
        "derived__noise_multiplier_ppm": [0, 299_999, 300_000, 300_001, "NaN", None],
        "job__clients_per_round": [1, 9, 10, 11, 1000, "10"],
    },
    "university_course": {
        "job__purpose": ["coursework", "research"],
        "job__rounds": [1, 100, 101, 1_000_000],
        "job__model__parameters": [1, 100_000, 100_001],
        "cost__epsilon_nano": [1, 500_000_000, 500_000_001, EPSILON, EPSILON + 1],
        "history__jobs_by_subject": [0, 9, 10, 11],
        "history__charged_epsilon_nano_by_subject": [0, EPSILON // 2, EPSILON, 2**62],
        "request__weekday": ["monday", "saturday", "sunday"],
        "subject__roles": [["researcher"], ["researcher", "auditor"], ["auditor"], []],
        "derived__noise_multiplier_ppm": [499_999, 500_000],
    },
}


def cases(name: str, count: int) -> list[Question]:
    """Every boundary alone, then random mixtures, the same in every run."""
    boundaries = BOUNDARIES[name]
    purpose = boundaries["job__purpose"][0]
    alone = [
        question(**({"job__purpose": purpose} | {path: value}))
        for path, values in boundaries.items()
        for value in values
    ]
    chance = random.Random(20260304)
    mixed = [
        question(**{path: chance.choice(values) for path, values in boundaries.items()})
        for _ in range(count - len(alone))
    ]
    return alone + mixed


@pytest.mark.parametrize("name", sorted(BOUNDARIES))
def test_the_examples_decide_alike(name: str, embedded: EmbeddedEngine, opa: OpaEngine) -> None:
    revision = Revision.of_text(*example(name))
    outcomes = set()
    for asked in cases(name, 100):
        ours = ask(embedded, revision, asked, deadline_seconds=PATIENCE)
        theirs = ask(opa, revision, asked, deadline_seconds=PATIENCE)
        assert ours.verdict == theirs.verdict, asked.canonical
        assert ours.digest == theirs.digest
        assert ours.fault is None
        outcomes.add(ours.verdict.outcome)
    assert {"allow", "deny"} <= outcomes


CONSTRUCTS = [
    ("comparison at the cap", "input.cost.epsilon_nano <= 1500000000"),
    ("strings", 'startswith(lower(input.job.purpose), "RE") == false'),
    ("sets", "{role | some role in input.subject.roles} == {input.subject.roles[0]}"),
    ("integers beyond doubles", "input.request.time_ns + 1 > input.request.time_ns"),
    ("large products", "input.cost.epsilon_nano * 1000000 == 1500000000000000"),
    ("remainder", "input.cost.epsilon_nano % 7 == 1500000000 % 7"),
    ("negation", "not input.job.rounds > 20"),
    ("every", "every layer in input.job.model.layers { count(layer) > 3 }"),
    ("time", "time.parse_rfc3339_ns(input.request.time) == input.request.time_ns"),
    ("weekday", "lower(time.weekday(input.request.time_ns)) == input.request.weekday"),
    ("sprintf", 'sprintf("%v %v", [input.job.rounds, input.job.purpose]) == "20 research"'),
    ("null", "input.history.last_job_time == null"),
    ("membership of a missing tag", 'not "absent" in input.dataset.tags'),
    ("regex", 'regex.match("^re[a-z]+$", input.job.purpose)'),
    ("object.get", 'object.get(input, ["job", "rounds"], 0) == 20'),
    ("types", "is_number(input.job.rounds)"),
    ("float equality as written", "input.job.noise_multiplier == 0.8"),
    ("float comparison", "input.cost.delta <= 0.00001"),
    ("sum and max", "sum([input.job.rounds, max([1, 2])]) == 22"),
    ("numbers.range", "count(numbers.range(1, 10)) == 10"),
]
CHANGES = [
    {},
    {"job__rounds": 21, "job__purpose": "other", "dataset__tags": ["absent"]},
    {"cost__epsilon_nano": 1_500_000_001, "job__noise_multiplier": 0.80001},
]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        pytest.param(rule, changes, id=f"{name} {number}")
        for (name, rule), (number, changes) in product(CONSTRUCTS, enumerate(CHANGES))
    ],
)
def test_the_profile_means_the_same(
    rule: str, changes: dict[str, object], embedded: EmbeddedEngine, opa: OpaEngine
) -> None:
    revision = Revision.of_text(
        "package p\n\ndefault allow := false\n\n"
        f'allow if {rule}\n\ndecision := {{"allow": allow, "deny": set()}}\n'
    )
    assert embedded.check(revision.source).clean
    asked = question(**changes)
    ours = ask(embedded, revision, asked, deadline_seconds=PATIENCE)
    theirs = ask(opa, revision, asked, deadline_seconds=PATIENCE)
    assert (ours.verdict, ours.fault) == (theirs.verdict, theirs.fault)
    assert ours.fault is None
