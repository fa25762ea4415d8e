"""An export whose last entries no checkpoint covers, written by whoever hands it to a restore."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from accounting import ledger
from gateway import backup, schema
from gateway.settings import GatewaySettings
from policies.engine import PolicyEngine
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.support import NOW, charge, export, open_population, reserve, settle
from tests.gateway.machine import Machine, spent

OWNER: dict[str, Any] = {"actor_id": "usr_owner", "now": NOW}


def grant(session: Session) -> None:
    ledger.grant(session, population_id="pop_a", epsilon=9.0, reason="forged", **OWNER)


def settled(session: Session) -> None:
    settle(session, "job_1")


def careful(session: Session) -> None:
    ledger.set_second_person(
        session, population_id="pop_a", needed=True, reason="care from now on", **OWNER
    )


def lived(tmp_path: Path, engine: PolicyEngine, *tail: Callable[[Session], object]) -> Machine:
    """A backup, five rounds charged after it and signed, then `tail`, which nobody signed."""
    settings = GatewaySettings(
        state_dir=tmp_path / "state", witness_path=tmp_path / "elsewhere" / "checkpoint"
    )
    settings.state_dir.mkdir()
    machine = Machine(settings, engine, "")
    database = machine.database()
    schema.upgrade(database)
    with database.unit_of_work() as session:
        open_population(session)
        reserve(session, "job_1", rounds=20)
    machine.sign()
    backup.make(settings, database, tmp_path / "backup", now=NOW, with_data=False)
    with database.unit_of_work() as session:
        charge(session, "job_1", 1, 5)
    machine.sign()
    for act in tail:
        with database.unit_of_work() as session:
            act(session)
    (tmp_path / "newer.jsonl").write_bytes(b"".join(line + b"\n" for line in export(database)))
    database.close()
    machine.lose()
    return machine


@pytest.mark.parametrize("act", [grant, settled])
def test_what_gives_budget_and_is_not_signed_is_not_written_back(
    tmp_path: Path, engine: PolicyEngine, act: Callable[[Session], object]
) -> None:
    machine = lived(tmp_path, engine, act)

    done = machine.back(folder=tmp_path / "backup", export=tmp_path / "newer.jsonl")

    assert (done.written_back, done.forfeited) == (1, ("job_1",))
    database = machine.database()
    with database.read() as session:
        balance = ledger.balance(session, "pop_a")
    assert balance.epsilon == 8.0
    assert spent(database)["pop_a"][0] == balance.epsilon_committed
    lines = export(database)
    assert verify(lines).ok
    kinds = [json.loads(line)["leaf"]["kind"] for line in lines if line.startswith(b'{"hash"')]
    assert kinds == ["open", "reserve", "charge", "charge", "void", "note"]
    database.close()


def test_what_was_spent_behind_it_is_not_forgotten(tmp_path: Path, engine: PolicyEngine) -> None:
    machine = lived(tmp_path, engine, grant, lambda session: reserve(session, "job_2", rounds=3))
    with pytest.raises(Refused, match="entry 4 of pop_a gives budget"):
        machine.back(folder=tmp_path / "backup", export=tmp_path / "newer.jsonl")


def test_what_was_spent_last_is_written_back_unsigned(tmp_path: Path, engine: PolicyEngine) -> None:
    machine = lived(tmp_path, engine, lambda session: reserve(session, "job_2", rounds=3))
    done = machine.back(folder=tmp_path / "backup", export=tmp_path / "newer.jsonl")
    assert (done.written_back, done.forfeited) == (2, ("job_1", "job_2"))


def test_a_stricter_rule_is_written_back_unsigned(tmp_path: Path, engine: PolicyEngine) -> None:
    machine = lived(tmp_path, engine, careful)
    machine.back(folder=tmp_path / "backup", export=tmp_path / "newer.jsonl")
    database = machine.database()
    with database.read() as session:
        assert ledger.balance(session, "pop_a").second_person
    database.close()
