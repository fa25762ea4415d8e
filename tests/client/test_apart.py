"""A ledger, sealed anew by its operator, in which one person's loss is split over two blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accounting import ledger
from kit.db import Database
from privacy_gateway import canonical, chain
from privacy_gateway.verify import verify
from tests.accounting.regions import regions, reserve
from tests.accounting.support import FACTS, NOW, export

Leaf = dict[str, Any]


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


def sealed_anew(lines: list[bytes], change: Callable[[Leaf], None]) -> list[bytes]:
    """The chain with every entry changed that `change` changes, and a head that fits."""
    made, prev = [lines[0]], chain.GENESIS
    for line in lines[1:]:
        cut = chain.read_line(line)
        if cut is None:
            head = json.loads(line)["head"]
            made.append(canonical.dumps({"head": head | {"hash": prev}}))
            continue
        leaf = json.loads(cut.leaf)
        change(leaf)
        raw = canonical.dumps(leaf)
        sealed = chain.seal(prev, raw)
        made.append(chain.write_line(sealed, raw, prev))
        prev = sealed
    return made


def enrolment(name: str, **facts: Any) -> Callable[[Leaf], None]:
    def change(leaf: Leaf) -> None:
        if leaf.get("enrolled", {}).get("block") == name:
            leaf["enrolled"] |= facts

    return change


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
