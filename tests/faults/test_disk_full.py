"""A full disk below database, witness or store: a typed refusal, nothing half written, and on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import schema
from gateway.settings import GatewaySettings
from jobs.services import Services
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.verify import verify
from tests.accounting.support import export
from tests.faults.cluster import Cluster, cluster
from tests.faults.volumes import fill, volume
from tests.gateway import clinic
from tests.gateway.conftest import ROLES, Gateway, running
from tests.reference.audit import audit
from tests.support import market as markets
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder outside pytest's own, which a server's user may not enter."""
    with tempfile.TemporaryDirectory(prefix="gateway-fault-") as folder:
        yield Path(folder)


@contextmanager
def house(
    engine: EmbeddedEngine, folder: Path, database_url: str, **settings: Any
) -> Iterator[clinic.Clinic]:
    """A gateway with a clinic in it."""
    state = folder / "state"
    state.mkdir()
    values = {
        "housekeeping_seconds": 0.05,
        "state_dir": state,
        "database_url": database_url,
        # A late decision is a 503 of another kind.
        "policy_deadline_seconds": 20.0,
    }
    made = GatewaySettings(**(values | settings))
    database = Database(made.database())
    schema.upgrade(database)
    with running(made, Services(made, database, engine)) as gateway:
        for role in ROLES:
            gateway.add(role, role)
        yield clinic.opened(gateway)
    database.close()


def submit(place: clinic.Clinic, key: str) -> dict[str, Any]:
    """A small job; its status beside what was said."""
    with place.house.client("researcher") as client:
        body = place.job(rounds=1, noise_multiplier=6.0)
        answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
    said: dict[str, Any] = answer.json()
    return said | {"status_code": answer.status_code}


def until_refused(place: clinic.Clinic, name: str) -> tuple[list[str], str]:
    """Submit until the disk is full: jobs that were accepted, and the key that was refused."""
    accepted = []
    for number in range(2000):
        key = f"{name}-{number}"
        said = submit(place, key)
        if said["status_code"] != 202:
            assert (said["status_code"], said["code"]) == (503, "unavailable"), said
            return accepted, key
        accepted.append(said["id"])
    raise AssertionError("the disk never filled up")


def check(place: clinic.Clinic, accepted: list[str]) -> None:
    """Every job that was accepted is in the ledger once, and none besides."""
    database = place.house.services.database
    found = audit(database)
    assert set(found.populations[place.population].jobs) == set(accepted)
    report = verify(export(database))
    assert report.ok, report.problems[:3]


def fail_and_recover(place: clinic.Clinic, full: Callable[[], Path]) -> None:
    """Fill the disk, be refused, read all the same, make room, go on with the same key."""
    first = submit(place, "first")
    assert first["status_code"] == 202
    ballast = full()
    accepted, refused_key = until_refused(place, "squeeze")
    before = place.budget()
    assert submit(place, refused_key)["status_code"] == 503
    # What is read is still what was written, and what was refused left nothing.
    assert place.budget() == before
    check(place, [first["id"], *accepted])
    ballast.unlink()
    again = submit(place, refused_key)
    assert again["status_code"] == 202
    check(place, [first["id"], *accepted, again["id"]])


def test_sqlite_on_a_full_disk(engine: EmbeddedEngine, tmp_path: Path) -> None:
    with volume(tmp_path / "disk", 16 * 1024) as disk:
        url = f"sqlite:///{disk / 'gateway.db'}"
        with house(engine, tmp_path, url) as place:
            fail_and_recover(place, lambda: fill(disk, leave=64 * 1024))


@contextmanager
def small_cluster(outside: Path) -> Iterator[tuple[Cluster, Path]]:
    """A server whose tables lie on a small volume, and its log of changes on the large one."""
    with ExitStack() as stack:
        disk = stack.enter_context(volume(outside / "disk", 24 * 1024))
        disk.chmod(0o777)
        started = stack.enter_context(cluster(outside / "server", autovacuum="off"))
        yield started, disk


def test_postgresql_on_a_full_disk(engine: EmbeddedEngine, tmp_path: Path, outside: Path) -> None:
    with small_cluster(outside) as (server, disk):
        administrator = Database(server.url)
        with administrator.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            tables = disk / "tables"
            tables.mkdir()
            server.own(tables)
            connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{tables}'")
            connection.exec_driver_sql("CREATE DATABASE small TABLESPACE small")
        administrator.close()
        url = administrator.url.set(database="small").render_as_string(hide_password=False)
        with house(engine, tmp_path, url) as place:
            fail_and_recover(place, lambda: fill(disk))


def test_postgresql_whose_whole_volume_is_full(
    engine: EmbeddedEngine, tmp_path: Path, outside: Path
) -> None:
    """No room for the log of changes: the server itself stops, and is started when there is."""
    with ExitStack() as stack:
        disk = stack.enter_context(volume(outside / "disk", 96 * 1024))
        server = stack.enter_context(
            cluster(disk, min_wal_size="32MB", max_wal_size="32MB", wal_recycle="off")
        )
        place = stack.enter_context(house(engine, tmp_path, server.url))
        first = submit(place, "first")
        assert first["status_code"] == 202
        ballast = fill(disk)
        accepted, refused_key = until_refused(place, "squeeze")
        ballast.unlink()

        def back() -> bool:
            # It may run on for a moment after it has found no room to recover in.
            if not server.running():
                server.start()
            return server.ready()

        wait_until(back, what="a server that takes connections")
        said: list[dict[str, Any]] = []
        wait_until(
            lambda: said.append(submit(place, refused_key)) or said[-1]["status_code"] == 202,
            what="an accepted job",
        )
        check(place, [first["id"], *accepted, said[-1]["id"]])


def test_a_witness_on_a_full_disk(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Jobs do not wait for the witness; it says `down`, keeps the old note, and catches up."""
    with volume(tmp_path / "disk", 256) as disk:
        path = disk / "witness" / "checkpoint"
        with house(engine, tmp_path, "", witness_path=path) as place:
            wait_until(path.exists, what="a first witness")
            ballast = fill(disk)
            wait_until(lambda: state(place.house) == "ok", what="a quiet witness")
            note = path.read_text(encoding="utf-8")
            accepted = [submit(place, "blind")["id"]]
            wait_until(lambda: state(place.house) == "down", what="a witness that says so")
            assert path.read_text(encoding="utf-8") == note
            ballast.unlink()
            wait_until(lambda: path.read_text(encoding="utf-8") != note, what="the next note")
            wait_until(lambda: state(place.house) == "ok", what="a witness that is up again")
            check(place, accepted)


def state(house: Gateway) -> str:
    """What the readiness probe says about the witness."""
    with house.client() as client:
        return str(client.get("/readyz").json()["parts"]["witness"])
