"""Blocks: nobody's total leaves the budget, whoever is grouped how, and whatever runs on whom."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from accounting import blocks, ledger
from accounting.tables_scope import MEMBER
from kit.db import Database
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.regions import (
    KEY,
    SIZES,
    charge,
    enrol,
    hash_of,
    opened,
    regions,
    reserve,
)
from tests.accounting.support import FACTS, NOW, export, refusal_of


def most(database: Database, block: str | None) -> int:
    """How many rounds fit now, found by trying."""
    low, high = 0, 1 << 20
    while low < high:
        middle = (low + high + 1) // 2
        try:
            with database.unit_of_work() as session:
                reserve(session, "try", block, middle)
                raise _Undo
        except _Undo:
            low = middle
        except Refused:
            high = middle - 1
    return low


class _Undo(Exception):
    """Nothing of a trial is kept."""


def test_blocks_spend_in_parallel_and_everybodys_jobs_count_for_each(database: Database) -> None:
    regions(database)
    alone = {name: most(database, name) for name in SIZES}
    with database.unit_of_work() as session:
        reserve(session, "job_n", "north", alone["north"])

    assert most(database, "north") == 0
    assert {name: most(database, name) for name in ("south", "west")} == {
        name: alone[name] for name in ("south", "west")
    }
    assert most(database, None) == 0, "the north's people have nothing left for a common job"

    with database.unit_of_work() as session:
        ledger.settle(session, job_id="job_n", reason="done", facts=FACTS, now=NOW)
    common = most(database, None)
    with database.unit_of_work() as session:
        reserve(session, "job_all", None, common)
    assert [most(database, name) for name in SIZES] == [0, 0, 0]
    assert verify(export(database)).ok


def test_the_odometer_tells_each_block_and_the_one_that_spent_most(database: Database) -> None:
    regions(database)
    with database.unit_of_work() as session:
        reserve(session, "job_all", None, 5)
        reserve(session, "job_n", "north", 20)
        charge(session, "job_n", 15)

    with database.read() as session:
        seen = ledger.odometer(session, "pop_a")
        then = ledger.odometer(session, "pop_a", at=NOW)
    north, south, west = seen.blocks
    assert (north.name, south.name, west.name) == ("north", "south", "west")
    assert north.epsilon_spent > south.epsilon_spent == west.epsilon_spent == 0
    assert north.epsilon_reserved > 0 < south.epsilon_reserved
    assert (seen.epsilon_spent, seen.charged) == (north.epsilon_spent, north.charged)
    assert seen.epsilon_remaining == min(block.epsilon_remaining for block in seen.blocks)
    assert then == seen, "the past is derived from entries alone, and says the same"


def test_people_of_two_blocks_are_refused_and_nothing_is_kept(database: Database) -> None:
    regions(database)
    with database.unit_of_work() as session:
        opened(session, "east", 50)
    before = _members(database)

    def mixed() -> None:
        with database.unit_of_work() as session:
            enrol(session, "east", [*range(395, 405), *range(920, 960)])

    refused = refusal_of(mixed)
    assert refused is not None
    assert (refused.code, refused.facts["people"]) == ("conflict", 10)
    assert refused.errors[0].field == "manifest.block"
    assert _members(database) == before


def test_the_database_itself_keeps_a_person_in_one_block(database: Database) -> None:
    regions(database)
    row = {"population_id": "pop_a", "hash": hash_of(0), "block": "south"}
    with pytest.raises(IntegrityError), database.unit_of_work() as session:
        session.execute(MEMBER.insert().values(row))
    for statement in (MEMBER.delete(), MEMBER.update().values(block="south")):
        with pytest.raises(IntegrityError), database.unit_of_work() as session:
            session.execute(statement)


@pytest.mark.parametrize(
    ("people", "key", "code", "field"),
    [
        (range(899), KEY, "invalid_request", "manifest.block"),
        ([*range(900, 949), 949, 949], KEY, "invalid_request", "manifest.client"),
        (range(900, 950), "f" * 16, "conflict", None),
    ],
)
def test_what_cannot_be_compared_is_refused(
    database: Database, people: Any, key: str, code: str, field: str | None
) -> None:
    regions(database)

    def act() -> None:
        with database.unit_of_work() as session:
            opened(session, "east", 50)
            enrol(session, "east", people, key=key)

    refused = refusal_of(act)
    assert refused is not None
    assert refused.code == code
    assert [fault.field for fault in refused.errors] == ([field] if field else [])


def test_more_people_than_the_population_has_are_no_blocks(database: Database) -> None:
    regions(database)

    def too_large() -> None:
        with database.unit_of_work() as session:
            opened(session, "east", 101)

    refused = refusal_of(too_large)
    assert refused is not None
    assert (refused.errors[0].field, refused.errors[0].limit) == ("clients", 100)
    with database.unit_of_work() as session:
        opened(session, "east", 100)
        enrol(session, "east", range(900, 1000))
        # Other people of the north, the same number: the union would be larger than everybody.
        refused = refusal_of(lambda: enrol(session, "north", range(5000, 5400), "ds_later"))
    assert refused is not None
    assert refused.errors[0].field == "manifest.block"


def test_a_second_data_set_about_the_same_people_shares_their_block(database: Database) -> None:
    regions(database)
    with database.unit_of_work() as session:
        entry = enrol(session, "north", range(400), "ds_other")
        digest = blocks.digest(session, "pop_a", "north")

    assert entry.leaf["enrolled"]["joined"] == 0
    assert entry.leaf["enrolled"]["members"] == 400
    hashes = sorted(hash_of(person) for person in range(400))
    assert entry.leaf["enrolled"]["members_digest"] == digest
    assert digest == hashlib.sha256(b"".join(hashes)).hexdigest()
    assert verify(export(database)).ok


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda leaf: leaf["block"].update(charged=[0] * 16), "balance"),
        (lambda leaf: leaf["block"].update(name="south"), "rule"),
        (lambda leaf: leaf.pop("block"), "rule"),
        (lambda leaf: leaf.update(project="other"), "rule"),
    ],
)
def test_a_charge_that_lies_about_its_people_is_found(
    database: Database, change: Any, kind: str
) -> None:
    regions(database)
    with database.unit_of_work() as session:
        reserve(session, "job_n", "north", 20)
        charge(session, "job_n", 15)
    lines = export(database)

    report = verify(_forged(lines, "charge", change))

    assert kind in {problem.kind for problem in report.problems}


def test_an_admission_beyond_one_blocks_budget_is_found_offline(database: Database) -> None:
    regions(database)
    room = most(database, "north")
    with database.unit_of_work() as session:
        reserve(session, "job_n", "north", room)

    def more(leaf: dict[str, Any]) -> None:
        leaf["rounds"] += 1
        leaf["cost"] = [part * leaf["rounds"] for part in leaf["per_round"]]
        leaf["block"]["reserved"] = leaf["cost"]

    report = verify(_forged(export(database), "reserve", more))

    assert "filter" in {problem.kind for problem in report.problems}


def _forged(lines: list[bytes], kind: str, change: Any) -> list[bytes]:
    """The export with one entry rewritten; seals are broken too, the rules must notice as well."""
    from privacy_gateway import canonical, chain

    made = []
    for line in lines:
        read = chain.read_line(line)
        if read is not None and json.loads(read.leaf)["kind"] == kind:
            leaf = json.loads(read.leaf)
            change(leaf)
            raw = canonical.dumps(leaf)
            made.append(chain.write_line(chain.seal(read.prev, raw), raw, read.prev))
        else:
            made.append(line)
    return made


def _members(database: Database) -> int:
    with database.read() as session:
        return len(session.execute(MEMBER.select()).all())
