"""What the replay allows over a history: room, quotas, blocks, stops, and rounds paid once."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy_gateway import gdp
from tests.accounting.leaves import (
    EIGHT,
    ORDINARY,
    PUBLIC,
    SECOND,
    TREE,
    Writer,
    gaussian,
    replayed,
    terms_of,
)  # fmt: skip


def told(w: Writer) -> dict[int, list[tuple[str, str]]]:
    """What is said of which entry."""
    return {at: one for at, one in enumerate(replayed(w.leaves)[1]) if one}


# A budget of eight has room for 10754 ordinary rounds, a quota of four for 2191, and a block of
# 400 people for 1579 rounds on ten of them.
NORTH = ORDINARY | {"clients": 400}
SOUTH = ORDINARY | {"clients": 300}


def no_room(job: str) -> tuple[str, str]:
    return "filter", f"job {job} was admitted although no order had room"


def no_order(job: str) -> tuple[str, str]:
    return "filter", f"no order is within its limit after a charge of job {job}"


def no_share(job: str) -> tuple[str, str]:
    return "filter", f"job {job} was admitted beyond a quota"


def test_room_is_for_what_is_held_and_what_was_charged() -> None:
    w = Writer()
    w.reserve("job_1", 6000)
    w.charge("job_1", 1, 3000)
    w.reserve("job_2", 4754)
    w.reserve("job_3", 1)
    w.charge("job_1", 3001, 3000)
    w.void("job_3", 1, 0)
    w.charge("job_2", 1, 4754)
    w.reserve("job_4", 1)
    w.grant()
    w.reserve("job_5", 1)
    assert told(w) == {
        4: [no_room("job_3")],
        5: [no_order("job_1")],
        8: [no_room("job_4")],
    }


@pytest.mark.parametrize("whose", [{"researcher": "usr_r"}, {"project": "study"}])
def test_a_quota_is_for_what_is_held_and_what_was_charged(whose: dict[str, str]) -> None:
    other = {"researcher": "usr_s"}
    w = Writer()
    w.reserve("job_0", 100, **(other | whose))
    w.write("quota", quota=terms_of(EIGHT // 2), **whose)
    w.reserve("job_1", 1400, **(other | whose))
    w.charge("job_1", 1, 700)
    w.reserve("job_2", 691, **(other | whose))
    w.reserve("job_3", 3000, **other)
    w.reserve("job_4", 1, **(other | whose))
    w.void("job_1", 700, 700)
    w.reserve("job_5", 699, **(other | whose))
    w.reserve("job_6", 1, **(other | whose))
    assert told(w) == {7: [no_share("job_4")], 10: [no_share("job_6")]}


def test_what_is_for_everybody_adds_to_every_block_and_what_is_for_one_to_that_alone() -> None:
    w = Writer()
    w.open_block("north", 400)
    w.open_block("south", 300)
    w.reserve("job_n", 960, NORTH, block="north")
    w.reserve("job_1", 6500)
    w.charge("job_n", 1, 480)
    w.charge("job_1", 1, 3250)
    w.reserve("job_s", 10, SOUTH, block="south")
    w.charge("job_s", 1, 5)
    w.void("job_1", 3250, 3250)
    w.charge("job_n", 481, 480)
    w.reserve("job_m", 100, NORTH, block="north")
    w.reserve("job_o", 150, NORTH, block="north")
    assert told(w) == {
        6: [no_room("job_1")],
        7: [no_order("job_n")],
        8: [no_order("job_1")],
        14: [no_room("job_o")],
    }


def test_a_budget_of_gaussians_pays_for_nothing_else() -> None:
    w = Writer(terms_of(weights=list(gdp.WEIGHTS), filter="gdp"))
    w.reserve("job_1", 1, gaussian(30.0))
    w.reserve("job_2", 1, PUBLIC)
    w.reserve("job_3", 1, TREE)
    assert told(w) == {3: [("filter", "job job_3: the filter gdp cannot add up a tree_gaussian")]}


def test_an_entry_that_names_no_data_set_contradicts_none() -> None:
    w = Writer()
    w.reserve("job_1", 4)
    w.charge("job_1", 1, 1)
    del w.jobs["job_1"]["facts"]["dataset"]
    w.charge("job_1", 2, 1)
    del w.jobs["job_1"]["facts"]
    w.charge("job_1", 3, 1)
    w.jobs["job_1"]["facts"] = None
    w.charge("job_1", 4, 1)
    assert told(w) == {}


def test_a_job_that_named_no_data_set_runs_on_none() -> None:
    w = Writer()
    w.reserve("job_1", 4)
    del w.leaves[-1]["facts"]
    w.charge("job_1", 1, 1)
    assert told(w) == {2: [("rule", "job job_1 ran on another data set than it reserved for")]}


def test_a_void_ends_a_job_and_frees_what_it_held() -> None:
    w = Writer()
    w.reserve("job_1", 4)
    w.charge("job_1", 1, 1)
    w.void("job_1", 3, 1)
    w.charge("job_1", 2, 1)
    assert told(w)[4][0] == ("settled", "job job_1 was already settled")
    known, _ = replayed(w.leaves[:4])
    assert (known.jobs["job_1"].closed, known.jobs["job_1"].blocks) == (True, {})


def test_a_second_person_is_needed_from_when_it_is_said() -> None:
    w = Writer()
    w.grant()
    w.write("note", reason="a look")
    w.write("note", second_person=True)
    w.grant()
    w.grant(**SECOND)
    w.write("note", second_person=True)
    w.write("note", second_person=False)
    w.grant()
    assert told(w) == {
        4: [("rule", "a grant was made without the second person it needs")],
        7: [("rule", "one person let the second person go")],
    }


def test_a_stop_is_a_stop_until_it_ends() -> None:
    w = Writer()
    w.reserve("job_1", 4)
    w.freeze(frozen=True)
    w.reserve("job_2", 4)
    w.charge("job_1", 1, 2)
    w.void("job_1", 2, 2)
    w.freeze(frozen=False)
    w.charge("job_2", 1, 2)
    assert told(w) == {
        3: [("rule", "job job_2 reserved while frozen")],
        4: [("rule", "job job_1 charged while frozen")],
    }


rounds_paid = st.lists(
    st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 4)), max_size=9
)


@given(pieces=rounds_paid)
@example(pieces=[(1, 1, 2), (1, 5, 4), (1, 7, 1)])
@example(pieces=[(1, 5, 4), (1, 1, 4), (1, 9, 1), (1, 4, 1)])
def test_a_round_is_paid_once_in_an_attempt(pieces: list[tuple[int, int, int]]) -> None:
    w = Writer()
    w.reserve("job_1", 100, PUBLIC)
    paid: set[tuple[int, int]] = set()
    again = []
    for attempt, first, rounds in pieces:
        w.charge("job_1", first, rounds, attempt=attempt)
        wanted = {(attempt, first + i) for i in range(rounds)}
        again.append(bool(wanted & paid))
        paid |= wanted
    found = replayed(w.leaves)[1][2:]
    # What is said after the first that is paid twice does not matter any more.
    upto = again.index(True) + 1 if True in again else len(again)
    twice = [any("a round twice" in text for _, text in one) for one in found]
    assert twice[:upto] == again[:upto]
