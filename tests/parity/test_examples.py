"""Both engines decide the examples alike, at every boundary and over ten thousand random jobs."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from policies.ask import Decision, ask
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.opa import OpaEngine
from policies.question import Question
from tests.parity.corpus import BOUNDARIES, alone, mixed
from tests.support.questions import EXAMPLES, example

PATIENCE = 60.0
"""Seconds; this test is about answers, not about time."""
JOBS = 10_000


def decided_alike(
    revision: Revision, asked: Question, embedded: EmbeddedEngine, opa: OpaEngine
) -> Decision:
    """One decision, once the other engine has made the same, codes and limits included."""
    ours = ask(embedded, revision, asked, deadline_seconds=PATIENCE)
    theirs = ask(opa, revision, asked, deadline_seconds=PATIENCE)
    assert (ours.verdict, ours.fault) == (theirs.verdict, theirs.fault), asked.canonical
    assert ours.digest == theirs.digest
    return ours


def test_every_example_has_its_boundaries() -> None:
    assert sorted(BOUNDARIES) == EXAMPLES


@pytest.mark.parametrize("name", sorted(BOUNDARIES))
def test_each_boundary_alone(name: str, embedded: EmbeddedEngine, opa: OpaEngine) -> None:
    revision = Revision.of_text(*example(name))
    outcomes = Counter(
        decided_alike(revision, asked, embedded, opa).verdict.outcome for asked in alone(name)
    )
    assert outcomes["deny"] >= 5
    assert outcomes["allow"] + outcomes["needs_approval"] >= 5
    assert sum(outcomes.values()) >= 18


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BOUNDARIES))
def test_random_jobs(name: str, embedded: EmbeddedEngine, opa: OpaEngine) -> None:
    revision = Revision.of_text(*example(name))
    chance = random.Random(f"parity of {name}")
    outcomes: Counter[str] = Counter()
    for _ in range(JOBS // len(BOUNDARIES) + 1):
        decision = decided_alike(revision, mixed(name, chance), embedded, opa)
        outcomes[decision.verdict.outcome] += 1
    assert outcomes["deny"] >= JOBS // 50
    assert outcomes["allow"] + outcomes["needs_approval"] >= JOBS // 50
