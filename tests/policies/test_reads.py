"""What a policy can see: never less than it reads, and the verdict moves with nothing else."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from policies import ask, reads
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.library import LIBRARY_DIRECTORY
from policies.reads import EVERYTHING, paths_read
from privacy_gateway import canonical
from tests.support import questions

EXAMPLES = sorted(
    path
    for path in LIBRARY_DIRECTORY.parent.joinpath("examples").rglob("*.rego")
    if not path.name.endswith("_test.rego")
)


def read_by(body: str) -> set[str]:
    return {".".join(path) for path in paths_read(f"package clinic\n\n{body}\n")}


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ('allow if input.job.purpose == "x"', {"job.purpose"}),
        ('allow if input["job"]["purpose"] == "x"', {"job.purpose"}),
        ('allow if input.job["purpose"] == "x"', {"job.purpose"}),
        ('allow if object.get(input, ["job", "rounds"], 0) < 3', {"job.rounds"}),
        ("allow if input.job[_] == 3", {"job"}),
        ("cost := input.cost", {"cost"}),
        ("import input.job as j\n\nallow if j.rounds < 3", {"job"}),
        ('allow if "input" == `input` # input.job', set()),
        ("import data.gateway.price\n\nd contains price.job_at_most(3)", {"cost.epsilon_nano"}),
        ("import data.gateway.price as p\n\nd contains p.job_at_most(3)", {"cost.epsilon_nano"}),
        ("d contains data.gateway.price.job_at_most(3)", {"cost.epsilon_nano"}),
        ("import data.gateway\n\nd contains gateway.price.job_at_most(3)", {"cost.epsilon_nano"}),
        (
            "import data.gateway.quota\n\nd contains quota.jobs_at_most(3)",
            {"history.jobs_by_subject"},
        ),
    ],
)
def test_paths_are_found(body: str, seen: set[str]) -> None:
    assert read_by(body) == seen


@pytest.mark.parametrize(
    "body",
    [
        "facts := input",
        "allow if f(input)",
        "allow if input[part].rounds < 3",
        "allow if object.get(input, path, 0) < 3",
        'allow if object.get(input, ["job", name], 0) < 3',
        "allow if other with input as {}",
        "allow if $`{input.job.rounds}` == 3",
        "import input as everything",
        "import data.gateway.nothing\n\nd contains nothing.here(1)",
        "import data.gateway.price\n\nd contains price.not_there(1)",
        'd contains data["gateway"].price.job_at_most(1)',
        'allow if input["job\\u0041"] == 1',
    ],
)
def test_what_is_not_understood_reads_everything(body: str) -> None:
    assert paths_read(f"package clinic\n\n{body}\n") == EVERYTHING


def leaves(document: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(document, dict):
        return [path]
    return [leaf for name, member in document.items() for leaf in leaves(member, (*path, name))]


def changed(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    other = copy.deepcopy(document)
    holder = other
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return other


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_verdict_moves_only_with_what_is_read(path: Path, embedded: EmbeddedEngine) -> None:
    """Every member of the question is bent, one at a time, and the real engine asked."""
    source = path.read_text(encoding="utf-8")
    revision = Revision.of_text(source)
    document = dict(questions.question().document)
    verdict = answer(embedded, revision, document)
    chance = random.Random(path.stem)
    moved = 0
    for leaf in leaves(document):
        for value in (0, 10**15, "research", None, chance.randrange(10**9)):
            other = changed(document, leaf, value)
            if reads.same(source, document, other):
                assert answer(embedded, revision, other) == verdict, leaf
            else:
                moved += answer(embedded, revision, other) != verdict
    assert moved > 0


def answer(engine: EmbeddedEngine, revision: Revision, document: dict[str, Any]) -> dict[str, Any]:
    evaluation = engine.evaluate(revision, canonical.dumps(document, floats=True), 5.0)
    return ask.judge(evaluation)[0].as_dict()
