"""Every construct the language profile allows means the same to both engines."""

from __future__ import annotations

from itertools import product

import pytest

from policies.ask import ask
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.opa import OpaEngine
from tests.support.questions import question

PATIENCE = 60.0
"""Seconds; this test is about answers, not about time."""

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
