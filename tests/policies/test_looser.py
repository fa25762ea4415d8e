"""When one text asks less than another: outcomes, people, obligations; and every doubt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.looser import compare, looser
from policies.verdict import Approval, Denial, Obligations, Verdict
from tests.support import questions
from tests.support.market import policy

DENY = Verdict("deny", (Denial("no", "job", "no"),))
ALLOW = Verdict("allow")


def waits(count: int = 1, hours: int = 48, role: str = "owner") -> Verdict:
    return Verdict("needs_approval", (), (Approval(role, count, hours),))


def owes(**obligations: Any) -> Verdict:
    return Verdict("allow", (), (), Obligations(**obligations))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (DENY, ALLOW),
        (DENY, waits()),
        (waits(), ALLOW),
        (waits(2), waits(1)),
        (waits(hours=24), waits(hours=48)),
        (waits(role="owner"), waits(role="auditor")),
        (owes(outputs=frozenset({"receipt"})), ALLOW),
        (owes(outputs=frozenset({"receipt"})), owes(outputs=frozenset({"receipt", "weights"}))),
        (owes(max_parallel_jobs=1), owes(max_parallel_jobs=2)),
        (owes(max_parallel_jobs=1), ALLOW),
        (owes(release_delay_hours=24), owes(release_delay_hours=1)),
        (owes(isolation="per_client_group"), owes(isolation="per_job")),
        (owes(isolation="per_job"), ALLOW),
    ],
)
def test_what_asks_less_is_looser_and_the_way_back_is_not(before: Verdict, after: Verdict) -> None:
    assert looser(before, after)
    assert not looser(before, before)
    assert not looser(after, after)
    if before.approvals == after.approvals or after.approvals == ():
        assert not looser(after, before)


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    made = EmbeddedEngine(1)
    yield made
    made.close()


def revision(number: int, source: str) -> Revision:
    text = Revision.of_text(source, "", dataset_id="ds_1")
    return replace(text, id=f"rev_{number}", number=number)


def row() -> dict[str, Any]:
    return {"input": questions.question().document}


def test_a_narrower_text_is_not_looser_and_a_wider_one_is(engine: EmbeddedEngine) -> None:
    narrow, wide = revision(1, policy(rounds=2)), revision(2, policy(rounds=200))

    down = compare(engine, wide, narrow, [row()])
    up = compare(engine, narrow, wide, [row()])

    assert (down.looser, down.loosened, down.past) == (False, 0, 1)
    assert up.looser
    assert up.loosened > 0, "ordinary jobs show it, although the one of the past does not"
    assert (up.active_id, up.active_number) == ("rev_1", 1)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (policy(), policy(rounds=1001)),
        (policy(), policy(cap=8)),
        (policy(approved=600), policy(approved=601)),
    ],
    ids=["rounds", "price", "approval"],
)
def test_a_limit_raised_beyond_all_that_was_ever_asked_is_found(
    engine: EmbeddedEngine, narrow: str, wide: str
) -> None:
    now, then = revision(1, narrow), revision(2, wide)

    assert compare(engine, now, then, [row()]).loosened > 0
    assert not compare(engine, then, now, [row()]).looser


def test_nothing_to_compare_with_counts_as_looser(engine: EmbeddedEngine) -> None:
    text = revision(1, policy(rounds=2))

    assert compare(engine, None, text, [row()]).looser
    assert compare(engine, text, revision(2, policy(rounds=1)), []).looser


def test_an_engine_that_fails_just_now_shows_nothing_to_be_stricter() -> None:
    broken = EmbeddedEngine(1)
    broken.close()
    found = compare(broken, revision(1, policy()), revision(2, policy(rounds=1)), [row()])
    assert found.looser
    assert found.loosened > found.past
