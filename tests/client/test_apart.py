"""A ledger, sealed anew by its operator, in which one person's loss is split over two blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accounting import ledger
from kit.db import Database
from privacy_gateway.verify import verify
from tests.accounting.regions import regions, reserve
from tests.accounting.support import FACTS, NOW, export
from tests.client.forgeries import Leaf, sealed_anew


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three blocks, a job of the north, three rounds of it charged."""
    folder: Path = tmp_path_factory.mktemp("apart")
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    database.create_all()
    regions(database)
    with database.unit_of_work() as session:
        reserve(session, "job_n", "north", 9)
        ledger.charge(
            session,
            job_id="job_n",
            round_first=1,
            rounds=3,
            attempt=1,
            fence=1,
            facts=FACTS | {"dataset": "ds_north"},
            now=NOW,
        )
    made = export(database)
    database.close()
    return made


def enrolment(name: str, **facts: Any) -> Callable[[Leaf], None]:
    def change(leaf: Leaf) -> None:
        if leaf.get("enrolled", {}).get("block") == name:
            leaf["enrolled"] |= facts

    return change


def opening(name: str, **facts: Any) -> Callable[[Leaf], None]:
    def change(leaf: Leaf) -> None:
        if leaf.get("opened", {}).get("block") == name:
            leaf["opened"] |= facts

    return change


def spent_less_in_the_north(leaf: Leaf) -> None:
    if leaf["kind"] == "charge":
        leaf["block"]["charged"][3] -= 1


def held_less_in_the_north(leaf: Leaf) -> None:
    if leaf["kind"] == "reserve":
        leaf["block"]["reserved"] = [0] * len(leaf["block"]["reserved"])


def ran_where_nobody_was_enrolled(leaf: Leaf) -> None:
    if leaf.get("job") == "job_n":
        leaf["facts"]["dataset"] = "ds_elsewhere"


def ran_on_the_south(leaf: Leaf) -> None:
    if leaf["kind"] == "charge":
        leaf["facts"]["dataset"] = "ds_south"


def the_norths_people(leaf: Leaf) -> None:
    if "enrolled" in leaf and leaf["enrolled"]["block"] != "west":
        leaf["enrolled"]["members_digest"] = "d" * 64


def test_sealed_anew_without_a_change_it_verifies(lines: list[bytes]) -> None:
    assert sealed_anew(lines, lambda _: None) == lines
    assert verify(lines).ok


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (enrolment("south", dataset="ds_north"), "is in blocks north and south"),
        (enrolment("west", joined=0, members=0), "fewer people|is not a whole number"),
        (enrolment("west", joined=199, members=199), "fewer people than its data sets"),
        (the_norths_people, "blocks north and south have the same people"),
        (ran_on_the_south, "ran on another data set"),
    ],
)
def test_one_person_in_two_blocks_is_found(
    lines: list[bytes], change: Callable[[Leaf], None], told: str
) -> None:
    report = verify(sealed_anew(lines, change))

    assert {problem.kind for problem in report.problems} == {"rule"}
    assert any(part in report.problems[0].detail for part in told.split("|"))


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (opening("south", block="north"), "rule", "block north was opened twice"),
        (opening("west", clients=301), "rule", "the blocks have more people than the population"),
        (enrolment("west", clients=199), "rule", "the numbers of block west do not follow"),
        (enrolment("west", members=201), "rule", "the numbers of block west do not follow"),
        (enrolment("west", key_id="1" * 16), "rule", "were hashed with another key"),
        (
            enrolment("west", joined=301, members=301),
            "rule",
            "more people are in blocks than the population has",
        ),
        (ran_where_nobody_was_enrolled, "rule", "its data set was not enrolled in"),
        (spent_less_in_the_north, "balance", "the stated charged of block north does not follow"),
        (held_less_in_the_north, "balance", "the stated reserved of block north does not follow"),
    ],
)
def test_what_a_block_says_must_follow(
    lines: list[bytes], change: Callable[[Leaf], None], kind: str, told: str
) -> None:
    report = verify(sealed_anew(lines, change))

    assert (report.problems[0].kind, told in report.problems[0].detail) == (kind, True), (
        report.problems[:2]
    )
