"""Every CHECK of every table, broken once: the database refuses by itself, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

import jobs.tables
import jobs.tables_people  # noqa: F401
from accounting.filter import zero
from kit.db import Database
from kit.guards import GUARDS
from privacy_gateway.chain import GENESIS
from tests.support import databases

Row = dict[str, Any]
HASH: Final = "a" * 64
BELOW: Final = (-1, *zero()[1:])
NANO: Final = 10**9

ROWS: Final[dict[str, Row]] = {
    "population": {
        "id": "pop_1", "name": "people", "privacy_unit": "person", "clients": 10,
        "owner_id": "usr_1", "epsilon_nano": NANO, "delta": "0.0001", "weights": zero(),
        "limits": zero(), "charged": zero(), "reserved": zero(), "frozen": False, "version": 1,
        "head_seq": 1, "head_hash": HASH, "created_at": 1,
    },
    "ledger_entry": {
        "population_id": "pop_1", "seq": 2, "kind": "charge", "at": 1, "job_id": "job_1",
        "researcher_id": "usr_2", "actor_id": None, "round_first": 1, "rounds": 1, "attempt": 1,
        "fence": 1, "leaf": "{}", "prev_hash": HASH, "hash": "b" * 64,
    },
    "quota": {
        "population_id": "pop_1", "researcher_id": "usr_2", "epsilon_nano": NANO,
        "weights": zero(), "limits": zero(), "charged": zero(), "reserved": zero(),
    },
    "reservation": {
        "job_id": "job_1", "population_id": "pop_1", "researcher_id": "usr_2", "mechanism": "{}",
        "mechanism_digest": HASH, "per_round": zero(), "whole": False, "rounds_reserved": 4,
        "rounds_charged": 2, "fence": 0, "closed": False, "lease_expires_at": 1, "created_at": 1,
    },
    "log_leaf": {"place": 0, "population_id": "pop_1", "seq": 1},
    "log_node": {"level": 0, "place": 0, "hash": bytes(32)},
    "log_checkpoint": {"origin": "o", "size": 1, "root": HASH, "note": "n", "signed_at": 1},
    "dataset": {
        "id": "ds_1", "name": "visits", "population_id": "pop_1", "owner_id": "usr_1",
        "version": 1, "digest": HASH, "clients": 10, "examples": 10, "assets": [],
        "feature_shape": [1], "feature_dtype": "float32", "feature_scale": 1.0,
        "label_dtype": "int32", "classes": 2, "store_path": "s", "test_store_path": None,
        "test_examples": 0, "tags": [], "manifest": {}, "frozen": False, "created_at": 1,
    },
    "policy_revision": {
        "id": "pol_1", "dataset_id": "ds_1", "number": 1, "source": "package p", "tests": "",
        "digest": HASH, "state": "superseded", "reason": "r", "author_id": "usr_1",
        "created_at": 1, "activated_at": 2, "activated_by": "usr_1", "superseded_at": 3,
        "checked_at": 1, "tested_at": 1, "shadowed_at": None,
    },
    "policy_library": {"digest": HASH, "texts": "{}", "created_at": 1},
    "decision": {
        "id": "dec_1", "dataset_id": "ds_1", "subject_id": "usr_2", "revision_id": "pol_1",
        "revision_number": 1, "revision_digest": HASH, "library_digest": HASH, "outcome": "deny",
        "code": "policy_denied", "fault": None, "detail": "", "verdict": "{}", "input": "{}",
        "input_digest": HASH, "digest": HASH, "engine": "e", "engine_version": "1",
        "latency_us": 1, "created_at": 1,
    },
    "job": {
        "id": "job_1", "population_id": "pop_1", "dataset_id": "ds_1", "dataset_version": 1,
        "owner_id": "usr_1", "researcher_id": "usr_2", "researcher_email": "a@b",
        "researcher_role": "researcher", "researcher_organisation": "o", "status": "running",
        "kind": "train", "purpose": "p", "request": "{}", "request_digest": HASH,
        "population_clients": 10, "clients_per_round": 2, "noise_multiplier": 1.0,
        "mechanism_digest": HASH, "rounds": 4, "rounds_charged": 2, "rounds_published": 1,
        "epsilon_nano": 1, "delta": "0.0001", "policy_revision_id": "pol_1", "policy_revision": 1,
        "decision_id": "dec_1", "decision_digest": HASH, "obligations": "{}", "approvals": "[]",
        "fence": 1, "attempt": 1, "worker": "w", "lease_expires_at": 9, "created_at": 1,
        "updated_at": 1,
    },
    "job_event": {"job_id": "job_1", "seq": 1, "kind": "x", "at": 1, "body": "{}"},
    "sweep": {
        "id": "swp_1", "researcher_id": "usr_2", "key": "k", "request_hash": HASH, "created_at": 1,
    },
    "sweep_member": {"sweep_id": "swp_1", "place": 1, "job_id": "job_1"},
    "starting_weights": {
        "researcher_id": "usr_2", "id": f"wts_{HASH}", "shapes": "[[1]]", "parameters": 1,
        "size_bytes": 1, "data": b"x", "created_at": 1,
    },
    "job_approval": {
        "job_id": "job_1", "approver_id": "usr_1", "approver_role": "owner",
        "decision": "approve", "note": "", "at": 1,
    },
    "idempotency": {
        "principal_id": "usr_2", "key": "k", "request_hash": HASH, "job_id": "job_1",
        "created_at": 1,
    },
    "job_release": {
        "job_id": "job_1", "round": 1, "attempt": 1, "fence": 1, "digest": HASH, "weights": b"w",
        "server_state": b"s", "metrics": None, "published_at": 1,
    },
    "receipt": {"job_id": "job_1", "body": "{}", "digest": HASH, "created_at": 1},
    "user_account": {
        "id": "usr_1", "email": "a@b.org", "password_hash": "$argon2id$x", "role": "owner",
        "organisation": "o", "created_at": 1, "disabled_at": None,
    },
    "access_token": {
        "id": "tok_1", "user_id": "usr_1", "sha256": HASH, "label": "l", "created_at": 1,
        "expires_at": 2, "revoked_at": None,
    },
}  # fmt: skip
"""A row of each table that keeps every CHECK."""

BROKEN: Final[dict[str, Row]] = {
    "population_clients": {"clients": 0},
    "population_epsilon": {"epsilon_nano": 0},
    "population_version": {"head_seq": 0},
    "population_head": {"head_hash": "short"},
    "population_not_negative": {"charged": BELOW},
    "population_named": {"name": ""},
    "quota_epsilon": {"epsilon_nano": 0},
    "quota_terms": {"limits": None},
    "quota_not_negative": {"reserved": BELOW},
    "quota_named": {"researcher_id": ""},
    "reservation_rounds": {"rounds_reserved": 0, "rounds_charged": 0},
    "reservation_charged": {"rounds_charged": 5},
    "reservation_fence": {"fence": -1},
    "reservation_digest": {"mechanism_digest": "short"},
    "reservation_not_negative": {"per_round": BELOW},
    "reservation_whole": {"whole": True},
    "reservation_named": {"researcher_id": ""},
    "ledger_entry_kind": {"kind": "refund", "round_first": None},
    "ledger_entry_charge": {"attempt": 0},
    "ledger_entry_rounds": {"kind": "void"},
    "ledger_entry_hash": {"hash": "short"},
    "ledger_entry_open": {"kind": "open", "round_first": None},
    "ledger_entry_bearing": {"kind": "void", "round_first": None, "researcher_id": None},
    "ledger_entry_count": {"kind": "note", "round_first": None, "rounds": -1},
    "log_leaf_place": {"place": -1},
    "log_node_place": {"level": 63},
    "log_node_hash": {"hash": b"short"},
    "log_checkpoint_size": {"size": 0},
    "log_checkpoint_root": {"root": "short"},
    "log_checkpoint_signed": {"note": ""},
    "dataset_version_from_one": {"version": 0},
    "dataset_has_clients": {"clients": 0},
    "dataset_examples_counted": {"examples": -1},
    "dataset_test_examples_counted": {"test_examples": -1, "test_store_path": "t"},
    "dataset_two_classes": {"classes": 1},
    "dataset_digest_is_sha256": {"digest": "short"},
    "dataset_test_store_if_any": {"test_examples": 1},
    "dataset_scaled_up": {"feature_scale": 0.0},
    "dataset_named": {"store_path": ""},
    "ck_policy_revision_number": {"number": 0},
    "ck_policy_revision_state": {"state": "lively", "superseded_at": None},
    "ck_policy_revision_activated": {"state": "draft", "superseded_at": None},
    "ck_policy_revision_actor": {"activated_by": None},
    "ck_policy_revision_superseded": {"state": "active"},
    "ck_policy_revision_checked": {"checked_at": None},
    "ck_policy_revision_tested": {"tested_at": None, "shadowed_at": 1},
    "ck_policy_revision_text": {"source": ""},
    "ck_policy_library_digest": {"digest": "short"},
    "ck_decision_outcome": {"outcome": "perhaps", "code": None},
    "ck_decision_fault_denies": {"outcome": "allow", "code": None, "fault": "timeout"},
    "ck_decision_latency": {"latency_us": -1},
    "ck_decision_code": {"code": None},
    "ck_decision_revision": {"revision_number": 0},
    "ck_decision_digests": {"digest": "short"},
    "job_status": {"status": "resting", "lease_expires_at": None},
    "job_kind": {"kind": "look"},
    "job_rounds": {"rounds": 0, "rounds_published": 0},
    "job_published": {"rounds_published": 3},
    "job_published_in_range": {"rounds_charged": 9, "rounds_published": 5},
    "job_cohort": {"clients_per_round": 11},
    "job_noise": {"noise_multiplier": 0.0},
    "job_epsilon": {"epsilon_nano": -1},
    "job_fence": {"fence": -1},
    "job_lease": {"lease_expires_at": None},
    "job_worker": {"worker": None},
    "job_finished": {"finished_at": 5},
    "job_approval_due": {"status": "awaiting_approval", "lease_expires_at": None},
    "job_failure": {"failure": "internal"},
    "job_versions": {"policy_revision": 0},
    "job_digests": {"decision_digest": "short"},
    "job_event_seq": {"seq": 0},
    "sweep_hash": {"request_hash": "short"},
    "sweep_key_length": {"key": ""},
    "sweep_member_place": {"place": 0},
    "starting_weights_id": {"id": "short"},
    "starting_weights_parameters": {"parameters": 0},
    "starting_weights_bytes": {"size_bytes": 2},
    "job_approval_decision": {"decision": "perhaps"},
    "job_approval_role": {"approver_role": "researcher"},
    "idempotency_hash": {"request_hash": "short"},
    "idempotency_key": {"key": ""},
    "job_release_round": {"round": 0},
    "job_release_fence": {"fence": 0},
    "job_release_digest": {"digest": "short"},
    "job_release_dropped": {"weights": None},
    "receipt_digest": {"digest": "short"},
    "user_account_role": {"role": "king"},
    "user_account_email_lower": {"email": "A@b.org"},
    "user_account_argon2id": {"password_hash": "secret"},
    "user_account_email": {"email": "nowhere"},
    "user_account_disabled": {"disabled_at": 0},
    "access_token_lifetime": {"expires_at": 1},
    "access_token_is_sha256": {"sha256": "short"},
}

# Held by more than one constraint: no row can break this one alone.
IMPLIED: Final = {"ledger_entry_first"}
TESTED_ELSEWHERE: Final = {"budget_block", "block_member", "project_quota", "project"} | {
    "project_member", "proposal",
}  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """One database for all: every test rolls back."""
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path_factory.mktemp('constraints') / 'gateway.db'}")
        made.create_all()
        yield made
        made.close()
        return
    server = request.getfixturevalue("_postgres_template")
    with copied(server) as made:
        yield made


@contextmanager
def copied(server: str) -> Iterator[Database]:
    """A copy of the template, dropped at the end."""
    name = databases.create(server, "house")
    made = Database(databases.named(server, database=name))
    try:
        yield made
    finally:
        made.close()
        databases.drop(server, name)


def _checks(table: sa.Table) -> set[str]:
    return {
        str(found.name)
        for found in table.constraints
        if isinstance(found, sa.CheckConstraint) and found.name
    }


OF_TABLE: Final = {
    name: table for table in SQLModel.metadata.tables.values() for name in _checks(table)
}


def _insert(connection: sa.Connection, table: str, row: Row) -> None:
    made = SQLModel.metadata.tables[table]
    # What a column's default would say, had the row been made by its class.
    given = {"second_person": False, "blocks": 0, "ordinal": 1}
    defaults = {name: value for name, value in given.items() if name in made.columns}
    connection.execute(sa.insert(made).values(**defaults | row))


def _behind(connection: sa.Connection) -> None:
    """A population with its first entry, for an entry to follow."""
    _insert(connection, "population", ROWS["population"])
    first = {"seq": 1, "kind": "open", "prev_hash": GENESIS, "hash": HASH}
    nobody = dict.fromkeys(("job_id", "researcher_id", "round_first", "rounds", "attempt", "fence"))
    _insert(connection, "ledger_entry", ROWS["ledger_entry"] | nobody | first)


def test_there_is_a_broken_row_for_every_check() -> None:
    wanted = {name for name, table in OF_TABLE.items() if table.name not in TESTED_ELSEWHERE}
    assert set(BROKEN) | IMPLIED == wanted


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_refused_by_its_check(database: Database, name: str) -> None:
    table = OF_TABLE[name].name
    with database.engine.connect() as connection:
        if table == "ledger_entry":
            _behind(connection)
        with pytest.raises(IntegrityError, match=name):
            _insert(connection, table, ROWS[table] | BROKEN[name])


@pytest.mark.parametrize("table", ROWS)
def test_the_row_itself_keeps_every_check(database: Database, table: str) -> None:
    with database.engine.connect() as connection:
        if table == "ledger_entry":
            _behind(connection)
        try:
            _insert(connection, table, ROWS[table])
        except IntegrityError as refused:
            assert "foreign key" in str(refused).lower()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"seq": 3}, id="a gap"),
        pytest.param({"prev_hash": "c" * 64}, id="another past"),
        pytest.param({"seq": 1, "prev_hash": "c" * 64}, id="a second beginning"),
        pytest.param({"prev_hash": GENESIS}, id="a beginning in the middle"),
    ],
)
def test_an_entry_enters_only_behind_the_one_it_seals(database: Database, change: Row) -> None:
    with database.engine.connect() as connection:
        _behind(connection)
        with pytest.raises(IntegrityError, match="follows"):
            _insert(connection, "ledger_entry", ROWS["ledger_entry"] | change)
    with database.engine.connect() as connection:
        _behind(connection)
        _insert(connection, "ledger_entry", ROWS["ledger_entry"])


FIXED: Final = [
    (table, column)
    for table, guard in GUARDS.items()
    if table in ROWS
    for column in guard.fixed or ()
]


@pytest.mark.parametrize(("table", "column"), FIXED)
def test_a_fixed_column_never_changes(database: Database, table: str, column: str) -> None:
    with database.engine.connect() as connection, _without_parents(connection):
        _insert(connection, table, ROWS[table])
        with pytest.raises(IntegrityError, match="kept as they were made"):
            connection.exec_driver_sql(f'UPDATE {table} SET "{column}" = NULL')


@pytest.mark.parametrize("table", [table for table in GUARDS if table in ROWS])
def test_a_guarded_row_is_never_deleted(database: Database, table: str) -> None:
    with database.engine.connect() as connection, _without_parents(connection):
        if table == "ledger_entry":
            _behind(connection)
        _insert(connection, table, ROWS[table])
        with pytest.raises(IntegrityError, match=r"append-only|kept as they were made"):
            connection.exec_driver_sql(f"DELETE FROM {table}")


@contextmanager
def _without_parents(connection: sa.Connection) -> Iterator[None]:
    """Rows may name others that are not there; only a superuser can switch that off."""
    if connection.dialect.name == "postgresql":
        for table in sa.inspect(connection).get_table_names():
            for key in sa.inspect(connection).get_foreign_keys(table):
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {key['name']}")
        yield
        return
    raw: Any = connection.connection.driver_connection
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        connection.rollback()
        raw.execute("PRAGMA foreign_keys=ON")
