"""Versions of data sets: who may register them, what is remembered, what stays the same."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import ledger
from accounting.ownership import open_population
from jobs import catalogue
from jobs.ingest import Ingested
from jobs.tables_datasets import Dataset
from kit.db import Database
from kit.ragged import RaggedStore
from privacy_gateway.errors import Refused
from privacy_gateway.manifest import Manifest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def manifest(**changes: Any) -> Manifest:
    base = {
        "name": "digits",
        "population": "pop_a",
        "client": "who",
        "features": ["image"],
        "label": "digit",
        "format": "npz",
        "classes": 2,
        "tags": ["images"],
    }
    return Manifest(**(base | changes))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "digits.npz"
    np.savez(path, image=np.zeros((4, 2, 2), np.uint8), digit=[0, 1, 0, 1], who=[1, 1, 2, 3])
    return path


@pytest.fixture
def house(database: Database) -> Database:
    """Populations pop_a (three people) and pop_b (four) of olga, pop_c of oscar."""
    with database.unit_of_work() as session:
        for name, clients, owner in (
            ("pop_a", 3, "olga"),
            ("pop_b", 4, "olga"),
            ("pop_c", 3, "oscar"),
        ):
            open_population(
                session,
                population_id=name,
                name=name,
                privacy_unit="person",
                clients=clients,
                epsilon=8.0,
                delta=1e-5,
                owner_id=owner,
                now=NOW,
            )
    return database


def register(session: Session, source: Any, tmp_path: Path, **changes: Any) -> Dataset:
    owner = changes.pop("owner_id", "olga")
    return catalogue.register(
        session,
        manifest=manifest(**changes),
        source=source,
        owner_id=owner,
        state_dir=tmp_path / "state",
        now=NOW,
    )


def test_a_version_is_found_again_with_all_that_jobs_need(
    house: Database, source: Path, tmp_path: Path
) -> None:
    with house.unit_of_work() as session:
        made = register(session, source, tmp_path).id
    with house.read() as session:
        row = catalogue.get(session, made)
    assert (row.version, row.clients, row.examples, row.classes) == (1, 3, 4, 2)
    assert (row.feature_shape, row.feature_dtype, row.label_dtype) == ([2, 2], "uint8", "int32")
    assert (row.population_id, row.owner_id, row.tags, row.frozen) == (
        "pop_a", "olga", ["images"], False,
    )  # fmt: skip
    assert [asset["name"] for asset in row.assets] == ["image", "digit"]
    store, test_store = catalogue.stores(row, tmp_path / "state")
    assert RaggedStore.open(store).clients == 3
    assert test_store is None


def test_a_state_directory_may_move(house: Database, source: Path, tmp_path: Path) -> None:
    public = {"shown": np.zeros((5, 2, 2), np.uint8), "named": [0, 1, 0, 1, 0]}
    np.savez(source, **np.load(source), **public)
    split = {"test_features": "shown", "test_label": "named", "test_public": True}
    with house.unit_of_work() as session:
        made = register(session, source, tmp_path, **split).id
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    with house.read() as session:
        row = catalogue.get(session, made)
    store, test_store = catalogue.stores(row, tmp_path / "elsewhere")
    assert RaggedStore.open(store).clients == 3
    assert test_store is not None
    assert RaggedStore.open(test_store).clients == 1


def test_a_store_may_lie_elsewhere(tmp_path: Path) -> None:
    row = Dataset.model_construct(
        store_path=str(tmp_path / "people"),
        test_store_path=str(tmp_path / "public"),
        test_examples=1,
        manifest={},
    )
    assert catalogue.stores(row, tmp_path / "state") == (tmp_path / "people", tmp_path / "public")


def test_a_relative_state_directory_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = Dataset.model_construct(
        store_path="abc/train", test_store_path="abc/test", test_examples=1, manifest={}
    )
    home = tmp_path.resolve() / "state" / "datasets" / "abc"
    assert catalogue.stores(row, Path("state")) == (home / "train", home / "test")


def test_registering_again_is_the_next_version(
    house: Database, source: Path, tmp_path: Path
) -> None:
    with house.unit_of_work() as session:
        first, second = (register(session, source, tmp_path) for _ in range(2))
        other = register(session, source, tmp_path, name="letters")
    assert [first.version, second.version, other.version] == [1, 2, 1]
    assert first.digest == second.digest == other.digest
    ids = {asset["id"] for row in (first, second, other) for asset in row.assets}
    assert len(ids) == 6


def staged_for_olga(house: Database, source: Path, tmp_path: Path) -> Ingested:
    with house.read() as session:
        wanted = catalogue.expected(session, manifest=manifest(), owner_id="olga")
    return catalogue.stage(wanted, manifest=manifest(), source=source, state_dir=tmp_path / "state")


def test_staging_needs_no_transaction_and_gives_the_same(
    house: Database, source: Path, tmp_path: Path
) -> None:
    staged = staged_for_olga(house, source, tmp_path)
    with house.unit_of_work() as session:
        row = register(session, staged, tmp_path)
        assert row.digest == register(session, source, tmp_path).digest


@pytest.mark.parametrize("population", ["pop_c", "pop_absent"])
def test_other_peoples_populations_do_not_exist(
    house: Database, source: Path, tmp_path: Path, population: str
) -> None:
    with house.unit_of_work() as session, pytest.raises(Refused) as caught:
        register(session, source, tmp_path, population=population)
    assert caught.value.code == "not_found"
    assert [error.field for error in caught.value.errors] == ["manifest.population"]
    assert "oscar" not in caught.value.diagnostics()


def test_a_file_of_other_people_is_refused_with_both_numbers(
    house: Database, source: Path, tmp_path: Path
) -> None:
    with house.unit_of_work() as session, pytest.raises(Refused) as caught:
        register(session, source, tmp_path, population="pop_b")
    assert caught.value.facts == {"clients_found": 3, "clients_declared": 4}
    with house.read() as session:
        assert list(session.scalars(sa.select(Dataset))) == []


def test_what_was_staged_for_others_cannot_be_registered(
    house: Database, source: Path, tmp_path: Path
) -> None:
    staged = staged_for_olga(house, source, tmp_path)
    with house.unit_of_work() as session, pytest.raises(Refused, match="another population"):
        register(session, staged, tmp_path, population="pop_b")


def test_nothing_is_committed_by_the_catalogue(
    house: Database, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError), house.unit_of_work() as session:
        register(session, source, tmp_path)
        raise RuntimeError
    with house.read() as session:
        assert list(session.scalars(sa.select(Dataset))) == []


def frozen(session: Session, dataset_id: str, value: bool, reason: str = "complaint") -> Dataset:
    return catalogue.set_frozen(session, dataset_id, value, reason=reason, actor_id="olga", now=NOW)


def test_a_version_can_be_withdrawn_and_offered_again_and_the_ledger_says_why(
    house: Database, source: Path, tmp_path: Path
) -> None:
    with house.unit_of_work() as session:
        row = register(session, source, tmp_path)
        made, digest = row.id, row.digest
    for value in (True, False):
        with house.unit_of_work() as session:
            row = frozen(session, made, value)
            assert (row.frozen, row.digest) == (value, digest)
        with pytest.raises(Refused, match="conflict"), house.unit_of_work() as session:
            frozen(session, made, value)
    with house.read() as session:
        notes = ledger.entries(session, population="pop_a", kind="note")
    assert [entry.leaf["facts"]["action"] for entry in notes] == [
        "dataset freeze", "dataset unfreeze",
    ]  # fmt: skip
    assert {entry.leaf["facts"]["dataset"] for entry in notes} == {made}
    assert {(entry.leaf["actor"], entry.leaf["reason"]) for entry in notes} == {
        ("olga", "complaint")
    }


def test_a_withdrawal_needs_a_reason_and_a_version(
    house: Database, source: Path, tmp_path: Path
) -> None:
    with house.unit_of_work() as session:
        made = register(session, source, tmp_path).id
    with pytest.raises(Refused) as caught, house.unit_of_work() as session:
        frozen(session, made, True, " ")
    assert caught.value.errors[0].field == "reason"
    with pytest.raises(Refused, match="not_found"), house.unit_of_work() as session:
        frozen(session, "ds_absent", True)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"clients": 0},
        {"digest": "short"},
        {"classes": 1},
        {"test_examples": 5},
        {"test_store_path": "somewhere"},
    ],
)
def test_the_database_itself_refuses_contradictions(
    house: Database, source: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    with house.unit_of_work() as session:
        register(session, source, tmp_path)
    with pytest.raises(sa.exc.IntegrityError), house.unit_of_work() as session:
        session.execute(sa.update(Dataset).values(**change))
