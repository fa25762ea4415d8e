"""A restored backup that lacks people of a block: nobody may spend before they are known again."""

from __future__ import annotations

from pathlib import Path

import pytest

from accounting import blocks, ledger
from gateway import backup, schema
from gateway.settings import GatewaySettings
from kit.db import Database
from policies.engine import PolicyEngine
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.support import NOW, export, open_population
from tests.gateway.machine import LATER, Machine

NORTH, MORE, OTHERS = (b"1" * 32, b"2" * 32), (b"1" * 32, b"3" * 32), (b"8" * 32, b"9" * 32)


def enrol(database: Database, block: str, people: tuple[bytes, ...], dataset: str) -> None:
    with database.unit_of_work() as session:
        blocks.enrol(
            session,
            population_id="pop_a",
            name=block,
            dataset_id=dataset,
            hashes=people,
            key_id="key",
            actor_id="usr_owner",
            now=NOW,
        )


def opened(database: Database, block: str) -> None:
    with database.unit_of_work() as session:
        blocks.open_block(
            session,
            population_id="pop_a",
            name=block,
            clients=2,
            reason="a town",
            actor_id="usr_owner",
            now=NOW,
        )


def unfreeze(database: Database) -> None:
    with database.unit_of_work() as session:
        ledger.unfreeze(
            session, population_id="pop_a", reason="again", actor_id="usr_owner", now=LATER
        )


@pytest.fixture
def restored(tmp_path: Path, engine: PolicyEngine) -> Database:
    """Two towns, and the three people of the north were enrolled after the backup."""
    settings = GatewaySettings(
        state_dir=tmp_path / "state", witness_path=tmp_path / "elsewhere" / "checkpoint"
    )
    settings.state_dir.mkdir()
    machine = Machine(settings, engine, "")
    database = machine.database()
    schema.upgrade(database)
    with database.unit_of_work() as session:
        open_population(session)
    opened(database, "north")
    opened(database, "south")
    machine.sign()
    folder = tmp_path / "backup"
    backup.make(settings, database, folder, now=NOW, with_data=False)
    enrol(database, "north", NORTH, "ds_1")
    enrol(database, "north", MORE, "ds_2")
    machine.sign()
    newer = tmp_path / "newer.jsonl"
    newer.write_bytes(b"".join(line + b"\n" for line in export(database)))
    database.close()
    machine.lose()
    machine.back(folder=folder, export=newer)
    return machine.database()


def test_nobody_spends_until_the_lost_people_are_known_again(restored: Database) -> None:
    for block, people, dataset in (("north", NORTH, "ds_3"), ("north", MORE, "ds_4")):
        with pytest.raises(Refused, match="lost when a backup was restored"):
            unfreeze(restored)
        enrol(restored, block, people, dataset)
    unfreeze(restored)

    report = verify(export(restored))
    assert report.problems == ()
    with restored.read() as session:
        assert blocks.block(session, "pop_a", "north").members == 3
    enrol(restored, "north", OTHERS, "ds_5")
    assert verify(export(restored)).ok
    restored.close()


def test_lost_people_cannot_become_those_of_another_block(restored: Database) -> None:
    enrol(restored, "south", NORTH, "ds_3")
    with pytest.raises(Refused, match="lost when a backup was restored"):
        unfreeze(restored)
    with pytest.raises(Refused, match="not apart"):
        enrol(restored, "north", NORTH, "ds_4")
    restored.close()


def test_other_people_do_not_stand_in_for_the_lost_ones(restored: Database) -> None:
    enrol(restored, "north", OTHERS, "ds_3")
    with pytest.raises(Refused, match="register theirs first"):
        enrol(restored, "north", NORTH, "ds_4")
    with pytest.raises(Refused, match="lost when a backup was restored"):
        unfreeze(restored)
    restored.close()
