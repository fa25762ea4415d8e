"""A hundred thousand sealed entries go through every migration and back, and all still verify."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from accounting import curve, ledger
from accounting.export import export_lines
from accounting.plan import TrainingPlan
from accounting.tables import ENTRY, POPULATION
from gateway import schema
from kit.db import Database
from privacy_gateway import chain
from privacy_gateway.verify import verify

OLD: Final = "0006"
"""The last schema whose tables are made anew by what follows."""
ENTRIES, POPULATIONS = 100, 1000
NOW: Final = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
FIRST: Final = "pop_0000"


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of the old schema."""
    kind = "sqlite_url" if request.param == "sqlite" else "postgres_database_url"
    database = Database(request.getfixturevalue(kind))
    if not database.is_sqlite:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    schema.upgrade(database, OLD)
    yield database
    database.close()


def _life(session: Any) -> None:
    """One population: opened, raised, jobs reserved, charged and settled; 100 entries."""
    ledger.open_population(
        session,
        population_id=FIRST,
        name="people",
        privacy_unit="person",
        clients=100_000,
        epsilon=50.0,
        delta=1e-6,
        owner_id="usr_owner",
        now=NOW,
    )
    price = curve.price(TrainingPlan(100_000, 10, 1, 20.0).mechanism)
    for number in range(9):
        job = f"job_0000_{number}"
        balance = ledger.lock(session, [FIRST])[FIRST]
        ledger.reserve(
            session,
            balance,
            job_id=job,
            researcher_id=f"usr_{number % 3}",
            price=price,
            rounds=9,
            facts={"actor": "usr_x"},
            now=NOW,
            lease_expires_at=NOW + timedelta(hours=1),
        )
        for first in range(1, 10):
            ledger.charge(
                session,
                job_id=job,
                round_first=first,
                rounds=1,
                attempt=1,
                fence=1,
                facts={"actor": "usr_x"},
                now=NOW,
            )
        ledger.settle(session, job_id=job, reason="completed", facts={}, now=NOW)


def _seals(database: Database) -> tuple[int, str]:
    """How many entries, and one digest over every column of theirs, in order."""
    query = (
        "SELECT population_id, seq, kind, at, job_id, researcher_id, actor_id, round_first, rounds,"
        " attempt, fence, leaf, prev_hash, hash, id FROM ledger_entry ORDER BY id"
    )
    digest, count = hashlib.sha256(), 0
    with database.engine.connect() as connection:
        for row in connection.exec_driver_sql(query):
            digest.update(repr(tuple(row)).encode())
            count += 1
    return count, digest.hexdigest()


def _fill(old: Database, model: Database) -> None:
    """A thousand populations like the first, each chain sealed by the chaining code itself."""
    with model.unit_of_work() as session:
        _life(session)
    with model.engine.connect() as connection:
        people = dict(connection.execute(sa.select(POPULATION)).mappings().one())
        entries = [
            dict(row)
            for row in connection.execute(sa.select(ENTRY).order_by(ENTRY.c.seq)).mappings()
        ]
    assert len(entries) == ENTRIES
    with old.engine.connect() as connection:
        there = sa.inspect(connection)
        columns = {
            name: {column["name"] for column in there.get_columns(name)}
            for name in ("population", "ledger_entry")
        }
    people = {name: people[name] for name in columns["population"]}
    entries = [{name: row[name] for name in columns["ledger_entry"] - {"id"}} for row in entries]
    with old.unit_of_work() as session:
        for number in range(POPULATIONS):
            rows = _renamed(entries, f"{number:04d}")
            head = {"id": f"pop_{number:04d}", "head_hash": rows[-1]["hash"]}
            session.execute(sa.insert(POPULATION), [people | head])
            session.execute(sa.insert(ENTRY), rows)


def _renamed(entries: list[dict[str, Any]], number: str) -> list[dict[str, Any]]:
    """The same life under other names, sealed anew from the beginning."""
    rows, prev = [], chain.GENESIS
    for entry in entries:
        leaf = entry["leaf"].replace(FIRST, f"pop_{number}").replace("job_0000", f"job_{number}")
        sealed = chain.seal(prev, leaf.encode())
        job = entry["job_id"] and entry["job_id"].replace("job_0000", f"job_{number}")
        names = {"population_id": f"pop_{number}", "job_id": job}
        rows.append(entry | names | {"leaf": leaf, "prev_hash": prev, "hash": sealed})
        prev = sealed
    return rows


@pytest.mark.slow
def test_every_hash_verifies_after_up_down_and_up_again(old: Database, tmp_path: Path) -> None:
    model = Database(f"sqlite:///{tmp_path / 'model.db'}")
    model.create_all()
    _fill(old, model)
    model.close()
    before = _seals(old)
    assert before[0] == ENTRIES * POPULATIONS

    schema.upgrade(old)
    assert _seals(old) == before
    schema.downgrade(old, OLD)
    assert _seals(old) == before
    schema.upgrade(old)
    assert _seals(old) == before

    with old.read() as session:
        report = verify(export_lines(session))
    assert report.ok, report.problems[0]
    with (
        old.engine.connect() as connection,
        pytest.raises(sa.exc.IntegrityError, match="append-only"),
    ):
        connection.exec_driver_sql("UPDATE ledger_entry SET leaf = '{}'")
