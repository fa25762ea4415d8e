"""What SQL itself refuses, on both databases, whatever the code above it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from jobs import admission
from jobs.tables import Idempotency, Job, JobEvent, JobRelease, Outbox, Receipt
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market, request


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(database, engine, tmp_path)


@pytest.fixture
def job_id(market: Market) -> str:
    wanted = request(market.dataset_id)
    return admission.submit(market.services, RESEARCHER, wanted, "key").job.id


def refuses(market: Market, statement: sa.Executable) -> None:
    with pytest.raises(IntegrityError), market.database.unit_of_work() as session:
        session.execute(statement)


@pytest.mark.parametrize(
    "values",
    [
        {"status": "lost"},
        {"kind": "steal"},
        {"rounds": 0},
        {"rounds_published": 1},
        {"rounds_charged": 21, "rounds_published": 21},
        {"clients_per_round": 1001},
        {"clients_per_round": 0},
        {"noise_multiplier": 0.0},
        {"epsilon_nano": -1},
        {"fence": -1},
        {"status": "running"},
        {"lease_expires_at": 1},
        {"population_id": "pop_nowhere"},
        {"dataset_id": "ds_nowhere"},
        {"decision_id": "dec_nowhere"},
    ],
    ids=str,
)
def test_a_job_cannot_contradict_itself(
    market: Market, job_id: str, values: dict[str, Any]
) -> None:
    refuses(market, sa.update(Job).where(sa.column("id") == job_id).values(**values))


def test_a_round_is_published_once(market: Market, job_id: str) -> None:
    row = {
        "job_id": job_id,
        "round": 1,
        "attempt": 1,
        "fence": 1,
        "digest": "d" * 64,
        "published_at": 1,
    }
    with market.database.unit_of_work() as session:
        session.execute(sa.insert(JobRelease).values(**row))
    refuses(market, sa.insert(JobRelease).values(**row | {"attempt": 2}))
    refuses(market, sa.insert(JobRelease).values(**row | {"round": 0}))


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (JobEvent, {"seq": 1, "kind": "again", "at": 1, "body": "{}"}),
        (JobEvent, {"seq": 0, "kind": "before", "at": 1, "body": "{}"}),
        (Outbox, {"created_at": 1}),
        (
            Idempotency,
            {
                "principal_id": RESEARCHER.id,
                "key": "key",
                "request_hash": "0" * 64,
                "created_at": 1,
            },
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_keys_are_unique(
    market: Market, job_id: str, table: type[Any], values: dict[str, Any]
) -> None:
    refuses(market, sa.insert(table).values(job_id=job_id, **values))


@pytest.mark.parametrize("table", [JobEvent, Outbox, JobRelease, Receipt, Idempotency])
def test_nothing_belongs_to_a_job_that_is_not_there(market: Market, table: type[Any]) -> None:
    filler: dict[str, Any] = {
        "seq": 1,
        "kind": "x",
        "at": 1,
        "body": "{}",
        "round": 1,
        "attempt": 1,
        "fence": 1,
        "digest": "d" * 64,
        "published_at": 1,
        "created_at": 1,
        "principal_id": "p",
        "key": "k",
        "request_hash": "0" * 64,
    }
    columns = sa.inspect(table).columns.keys()
    values = {name: value for name, value in filler.items() if name in columns}
    refuses(market, sa.insert(table).values(job_id="job_nowhere", **values))


def test_a_job_inserted_after_its_key_is_found_among_the_keys_by_index() -> None:
    """SQLite looks for children of a deferred foreign key at each insert into the parent."""
    unread = [
        f"{table.name}.{key.parent.name}"
        for table in SQLModel.metadata.tables.values()
        for key in (key for constraint in deferred(table) for key in constraint.elements)
        if not any(key.parent is next(iter(index.columns)) for index in found_by(table))
    ]
    assert [table.name for table in SQLModel.metadata.tables.values() if deferred(table)]
    assert unread == []


def deferred(table: sa.Table) -> list[sa.ForeignKeyConstraint]:
    return [each for each in table.foreign_key_constraints if each.deferrable]


def found_by(table: sa.Table) -> list[Any]:
    return [table.primary_key, *table.indexes]
