"""Backups that are really restored, on both databases: nothing that was spent is forgotten."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from accounting import blocks, ledger, log_keys, recovery, witness
from gateway import backup, schema
from gateway import restore as restoring
from gateway.restore import Asking, restore
from gateway.settings import GatewaySettings
from jobs.notary import Notary, require_not_rolled_back
from jobs.services import Services
from kit.db import Database
from policies.engine import PolicyEngine
from privacy_gateway import checkpoint, tabular
from privacy_gateway.errors import Refused
from privacy_gateway.logbook import Asked
from privacy_gateway.verify import verify
from tests.accounting.support import NOW, export, open_population, reserve
from tests.gateway.clinic import opened
from tests.gateway.conftest import running
from tests.gateway.machine import LATER, Machine, before, lived, shares, spent

# Long enough for a busy machine between two statements, migrations included.
SILENCE_SECONDS, LONGER_SECONDS = 2.0, 4.0


@pytest.fixture(params=["sqlite", "postgresql"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, engine: PolicyEngine) -> Machine:
    urls = ["", ""]
    if request.param == "postgresql":
        urls = [request.getfixturevalue("empty_postgres_url"), request.getfixturevalue("other_url")]
    settings = GatewaySettings(
        state_dir=tmp_path / "state",
        database_url=urls[0],
        witness_path=tmp_path / "elsewhere" / "checkpoint",
    )
    settings.state_dir.mkdir()
    found = Machine(settings, engine, urls[1])
    database = found.database()
    schema.upgrade(database)
    database.close()
    return found


def _empty(url: str, name: str) -> Iterator[str]:
    admin = sa.create_engine(Database(url).url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield sa.make_url(url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    admin.dispose()


@pytest.fixture
def empty_postgres_url(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    yield from _empty(postgres_url, f"one_{abs(hash(tmp_path)):x}")


@pytest.fixture
def other_url(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    yield from _empty(postgres_url, f"two_{abs(hash(tmp_path)):x}")


def test_a_dump_may_take_longer_than_the_server_lets_a_transaction_wait(
    empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty seconds: the transaction that holds the dump's snapshot does nothing meanwhile."""
    dump, other = backup.run_server_program, Database(empty_postgres_url)
    schema.upgrade(other)
    database = Database(empty_postgres_url, silence_seconds=SILENCE_SECONDS)

    def slow(*given: Any) -> None:
        with other.read() as session:
            session.execute(sa.text("SELECT pg_sleep(:longer)"), {"longer": LONGER_SECONDS})
        dump(*given)

    monkeypatch.setattr(backup, "run_server_program", slow)
    settings = GatewaySettings(state_dir=tmp_path / "state", database_url=empty_postgres_url)
    manifest = backup.make(settings, database, tmp_path / "b", now=NOW, with_data=False)
    assert manifest["entries"] == 0
    database.close()
    other.close()


def test_a_backup_that_nothing_followed_comes_back_as_it_was(
    machine: Machine, tmp_path: Path
) -> None:
    database = machine.database()
    before(database)
    machine.sign()
    was, lines = spent(database), export(database)
    manifest = backup.make(machine.settings, database, tmp_path / "b", now=NOW, with_data=False)
    database.close()
    assert manifest["entries"] == 4
    assert [head[:2] for head in manifest["heads"]] == [["pop_a", 3], ["pop_b", 1]]
    machine.lose()
    done = machine.back(folder=tmp_path / "b")
    assert (done.entries, done.written_back, done.witness) == (4, 0, "ok")
    database = machine.database()
    assert (spent(database), export(database)) == (was, lines)
    with pytest.raises(sa.exc.DatabaseError), database.unit_of_work() as session:
        session.execute(sa.text("DELETE FROM ledger_entry"))
    database.close()


def test_an_old_backup_is_refused_and_nothing_is_restored(machine: Machine, tmp_path: Path) -> None:
    folder, _, database = lived(machine, tmp_path)
    database.close()
    machine.lose()
    with pytest.raises(Refused) as caught:
        machine.back(folder=folder)
    assert caught.value.facts["reason"] == "rolled_back"
    assert "--export" in caught.value.detail
    assert not list(machine.settings.state_dir.glob("*sqlite3*"))
    if machine.settings.database_url:
        database = machine.database()
        assert sa.inspect(database.engine).get_table_names() == []
        database.close()


def test_an_export_brings_back_every_balance_and_the_witnesss_root(
    machine: Machine, tmp_path: Path
) -> None:
    folder, lines, database = lived(machine, tmp_path)
    was, was_shares = spent(database), shares(database)
    seen = witness.read(machine.settings.witness())
    database.close()
    assert seen is not None
    newer = tmp_path / "newer.parquet"
    newer.write_bytes(b"".join(tabular.parquet_chunks(lines)))
    machine.lose()

    done = machine.back(folder=folder, export=newer)

    assert done.written_back == 13
    assert done.witness == "ok"
    # job_2 was settled and pop_b is frozen; the others may have gone on unseen.
    assert done.forfeited == ("job_1", "job_3")
    database = machine.database()
    now = spent(database)
    for population, (charged, committed) in was.items():
        assert now[population][0] >= charged
        assert now[population][0] == pytest.approx(committed, abs=1e-9)
    for share in was_shares:
        kept = [new for new in shares(database) if new[:4] == share[:4]]
        assert len(kept) == 1
        assert all(new >= old for new, old in zip(kept[0][4], share[4], strict=True))
    with database.read() as session:
        balance = ledger.balance(session, "pop_b")
        assert (balance.frozen, balance.second_person, balance.blocks) == (True, True, 1)
        keys = [signer.verifier for signer in log_keys.signers(machine.settings.key_directory())]
    require_not_rolled_back(database, machine.settings)
    machine.sign()
    # An auditor who kept the last checkpoint sees a log that only grew.
    report = verify(export(database), asked=Asked(keys, older=seen))
    assert report.problems == ()
    assert report.log is not None
    assert report.log.grown_from == checkpoint.parse(seen).checkpoint.size
    # And a second restore of the same kind has nothing left to do.
    newest = tmp_path / "newest.jsonl"
    newest.write_bytes(b"".join(line + b"\n" for line in export(database)))
    database.close()
    assert machine.back(folder=None, export=newest).written_back == 0


def test_an_export_may_take_longer_to_verify_than_the_server_lets_a_transaction_wait(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million entries take a minute, in the transaction that writes them back."""
    folder, lines, database = lived(machine, tmp_path)
    database.close()
    newer = tmp_path / "newer.jsonl"
    newer.write_bytes(b"".join(line + b"\n" for line in lines))
    machine.lose()

    def slow(*given: Any, **more: Any) -> Any:
        threading.Event().wait(LONGER_SECONDS)
        return verify(*given, **more)

    monkeypatch.setattr(restoring, "verify", slow)
    monkeypatch.setattr(restoring, "Database", partial(Database, silence_seconds=SILENCE_SECONDS))
    assert machine.back(folder=folder, export=newer).written_back == 13


@pytest.mark.parametrize("damage", ["older", "flipped", "other"])
def test_an_export_that_proves_nothing_restores_nothing(
    machine: Machine, tmp_path: Path, damage: str
) -> None:
    folder, lines, database = lived(machine, tmp_path)
    database.close()
    if damage == "older":
        # It ends before the entries that the witness has seen.
        machine.lose()
        shutil.copytree(folder, tmp_path / "again")
        elsewhere = machine.settings.model_copy(
            update={
                "witness_path": tmp_path / "none",
                "state_dir": tmp_path / "s2",
                "database_url": machine.settings.database_url and machine.fresh_url,
            }
        )
        restore(elsewhere, Asking(tmp_path / "again", without_witness=True), now=LATER)
        old = Database(elsewhere.database())
        lines = export(old)
        if machine.settings.database_url:
            with old.engine.begin() as connection:
                connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        old.close()
    else:
        machine.lose()
    text = b"".join(line + b"\n" for line in lines)
    if damage == "flipped":
        text = text.replace(b'"epsilon_nano":1500000000', b'"epsilon_nano":1600000000')
    if damage == "other":
        text = text.replace(b"pop_a", b"pop_x")
    path = tmp_path / "newer.jsonl"
    path.write_bytes(text)
    with pytest.raises(Refused) as caught:
        machine.back(folder=folder, export=path)
    assert [error.field for error in caught.value.errors] == ["export"]
    assert not list(machine.settings.state_dir.glob("gateway.sqlite3"))


def test_what_a_restore_needs_is_asked_for(machine: Machine, tmp_path: Path) -> None:
    folder, _, database = lived(machine, tmp_path)
    database.close()

    def refused(**asking: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            machine.back(**asking)
        return caught.value

    note = machine.settings.witness().read_text()
    machine.settings.witness().unlink()
    assert refused(folder=folder).errors[0].field == "without_witness"
    assert refused(folder=folder, without_witness=True).code == "conflict"
    machine.settings.witness().write_text(note)
    assert refused(folder=tmp_path / "none").errors[0].field == "folder"
    with pytest.raises(Refused) as caught:
        database = machine.database()
        backup.make(machine.settings, database, folder, now=NOW, with_data=False)
    database.close()
    assert caught.value.errors[0].field == "folder"
    name = next(name for name in backup.files(folder) if name.startswith("database"))
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert name in refused(folder=folder).detail
    (folder / name).unlink()
    assert "missing" in refused(folder=folder).detail


def test_no_private_key_is_in_a_backup(machine: Machine, tmp_path: Path) -> None:
    folder, _, database = lived(machine, tmp_path)
    database.close()
    assert log_keys.signers(machine.settings.key_directory())
    for name in backup.files(folder):
        assert b"PRIVATE+KEY" not in (folder / name).read_bytes()
    assert folder.stat().st_mode & 0o077 == 0


def test_people_lost_from_a_block_freeze_their_population(machine: Machine, tmp_path: Path) -> None:
    database = machine.database()
    with database.unit_of_work() as session:
        open_population(session)
    machine.sign()
    folder = tmp_path / "backup"
    backup.make(machine.settings, database, folder, now=NOW, with_data=False)
    with database.unit_of_work() as session:
        blocks.open_block(
            session,
            population_id="pop_a",
            name="north",
            clients=2,
            reason="two towns",
            actor_id="usr_owner",
            now=NOW,
        )
        blocks.enrol(
            session,
            population_id="pop_a",
            name="north",
            dataset_id="dat_1",
            hashes=[b"1" * 32, b"2" * 32],
            key_id="key",
            actor_id="usr_owner",
            now=NOW,
        )
    machine.sign()
    newer = tmp_path / "newer.jsonl"
    newer.write_bytes(b"".join(line + b"\n" for line in export(database)))
    database.close()
    machine.lose()
    machine.back(folder=folder, export=newer)
    database = machine.database()
    with database.read() as session:
        assert ledger.balance(session, "pop_a").frozen
    database.close()


def test_an_entry_whose_balance_does_not_follow_stops_the_replay(machine: Machine) -> None:
    database = machine.database()
    with database.unit_of_work() as session:
        open_population(session)
    lines = export(database)
    with database.read() as session:
        lost = recovery.missing(session, lines)
        assert lost.entries == 0
    with database.unit_of_work() as session:
        reserve(session, "job_1")
    whole = export(database)
    database.close()
    forged = [line.replace(b'"rounds":100', b'"rounds":101') for line in whole]
    machine.lose()
    other = machine.database()
    schema.upgrade(other)
    with pytest.raises(Refused) as caught, other.unit_of_work() as session:
        lost = recovery.missing(session, forged)
        recovery.recover(session, lost, now=LATER, actor_id="operator")
    assert caught.value.code == "conflict"
    assert spent(other) == {}
    other.close()


def test_a_gateway_goes_on_where_it_was_and_unfinished_jobs_end(
    settings: GatewaySettings, services: Services, engine: PolicyEngine, tmp_path: Path
) -> None:
    def step() -> None:
        Notary(services).step()

    with running(settings, services) as house:
        for role in ("owner", "researcher", "auditor"):
            house.add(role, role)  # type: ignore[arg-type]
        clinic = opened(house)
        kept = house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())["id"]
        step()
        folder = tmp_path / "backup"
        backup.make(settings, services.database, folder, now=NOW, with_data=True)
        lost = house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())["id"]
        step()
        was = clinic.budget()
        with house.client("auditor") as client:
            newer = tmp_path / "newer.jsonl"
            newer.write_bytes(client.get("/v1/ledger/export").content)
    services.database.close()
    shutil.rmtree(settings.state_dir / "datasets")

    done = restore(settings, Asking(folder, newer, replace=True), now=services.clock())

    assert set(done.forfeited) == {kept, lost}
    assert done.jobs_ended == (kept,)
    assert len(list(settings.state_dir.glob("gateway.sqlite3.before-*"))) == 1
    assert len(list((settings.state_dir / "datasets").iterdir())) == 1
    database = Database(settings.database())
    with running(settings, Services(settings, database, engine)) as again:
        again.tokens.update(house.tokens)
        budget = again.ok("owner", "GET", f"/v1/populations/{clinic.population}/budget")
        assert budget["epsilon_spent"] == pytest.approx(
            was["epsilon_spent"] + was["epsilon_reserved"], abs=1e-8
        )
        assert budget["epsilon_reserved"] == 0
        job = again.ok("researcher", "GET", f"/v1/jobs/{kept}")
        assert job["status"] == "cancelled"
        receipt = again.ok("researcher", "GET", f"/v1/jobs/{kept}/receipt")
        assert receipt["rounds"] == {"requested": 4, "charged": 4, "published": 0}
        assert again.ok("researcher", "POST", "/v1/jobs", json=clinic.job())["status"] == "queued"
        with again.client("auditor") as client:
            lines = client.get("/v1/ledger/export").content.splitlines()
        assert verify(lines).problems == ()
    database.close()
    assert json.loads((folder / "manifest.json").read_text())["with_data"] is True
