"""The four PostgreSQL roles on a real server: what each may not do, and that their work runs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from sqlmodel import SQLModel
from typer.testing import CliRunner

from accounting import log_keys
from accounting.export import export_lines
from gateway import roles, schema
from gateway.cli.main import register
from gateway.roles import ACCESS, PROCESSES, ROLES, VERBS, VERSIONS, Role, Verb
from jobs import admission, presence, quoting, settlement
from jobs.notary import Notary
from jobs.reaper import Housekeeping
from jobs.services import Services
from kit.db import Database
from kit.guards import GUARDS
from privacy_gateway.errors import Refused
from privacy_gateway.logbook import Asked
from privacy_gateway.verify import verify
from tests.support import market as support
from tests.support.databases import execute as administrate
from tests.support.databases import named
from tests.support.market import RESEARCHER, Market
from tests.support.trainer import Stable
from worker import coordinator
from worker.coordinator import Tools
from worker.noise import NoiseSource

PREFIX = f"r{secrets.token_hex(4)}"
TABLES = sorted(SQLModel.metadata.tables)
NO_RIGHT, NO_WAY = "42501", "23000"
"""SQLSTATE of a missing privilege, and what the guards' triggers answer."""


def forget(url: str, *names: str) -> None:
    """Drop roles together with their privileges in one database."""
    for name in names:
        administrate(url, f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')


@pytest.fixture(scope="module")
def house(_postgres_template: str) -> Iterator[str]:
    """A database with every table and the four roles; answers its superuser URL."""
    name = f"roles_{secrets.token_hex(4)}"
    administrate(_postgres_template, f'CREATE DATABASE "{name}" TEMPLATE house')
    url = named(_postgres_template, database=name)
    administrate(
        url, f"CREATE TABLE {VERSIONS} (version_num text)", f"INSERT INTO {VERSIONS} VALUES ('x')"
    )
    database = Database(url)
    outcome = roles.set_up(database, PREFIX, {"api": "a secret of twenty letters"})
    database.close()
    assert outcome.roles == tuple(f"{PREFIX}_{role}" for role in ROLES)
    yield url
    database = Database(url)
    administrate(url, f'REASSIGN OWNED BY "{PREFIX}_migrator" TO gateway')
    forget(url, *(f"{PREFIX}_{role}" for role in ROLES))
    database.close()
    administrate(_postgres_template, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def doors(house: str) -> Iterator[dict[Role, Database]]:
    """A connection of each role."""
    opened = {role: Database(named(house, username=f"{PREFIX}_{role}")) for role in ROLES}
    yield opened
    for database in opened.values():
        database.close()


def refusal(database: Database, statement: str) -> str | None:
    """SQLSTATE a statement is refused with, or None; nothing stays of it."""
    with database.engine.connect() as connection:
        # Only a superuser's default: the auditor's own session could switch it off anyway.
        connection.exec_driver_sql("SET TRANSACTION READ WRITE")
        try:
            connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as error:
            return str(error.orig.sqlstate)  # type: ignore[union-attr]
        return None


def attempt(verb: Verb, table: str) -> str:
    """The plainest use of a verb on a table; PostgreSQL looks at privileges before all else."""
    column = "version_num" if table == VERSIONS else _free_column(table)
    return {
        "SELECT": f'SELECT "{column}" FROM {table} LIMIT 0',
        "INSERT": f"INSERT INTO {table} DEFAULT VALUES",
        "UPDATE": f'UPDATE {table} SET "{column}" = NULL WHERE false',
        "DELETE": f"DELETE FROM {table} WHERE false",
        "TRUNCATE": f"TRUNCATE {table} CASCADE",
    }[verb]


def _free_column(table: str) -> str:
    """A column that is neither fixed nor hidden, if the table has one."""
    names = SQLModel.metadata.tables[table].columns.keys()
    guard = GUARDS.get(table)
    fixed = () if guard is None or guard.fixed is None else guard.fixed
    hidden = roles.HIDDEN.get(table, frozenset())
    return next((name for name in names if name not in {*fixed, *hidden}), names[0])


def test_the_table_of_privileges_knows_every_table() -> None:
    assert set(ACCESS) == set(SQLModel.metadata.tables) | {VERSIONS}


@pytest.mark.parametrize("table", [*TABLES, VERSIONS])
def test_every_role_can_do_what_the_table_says_and_nothing_else(
    doors: dict[Role, Database], table: str
) -> None:
    for role in PROCESSES:
        for verb in VERBS:
            refused = refusal(doors[role], attempt(verb, table)) == NO_RIGHT
            assert refused == (verb not in roles.allowed(role, table)), f"{role} {verb} {table}"


SEALED = [
    "ledger_entry",
    "log_leaf",
    "log_node",
    "log_checkpoint",
    "log_key",
    "decision",
    "job_event",
    "job_approval",
    "receipt",
]


@pytest.mark.parametrize("table", SEALED)
def test_nobody_changes_what_is_sealed(doors: dict[Role, Database], house: str, table: str) -> None:
    column = SQLModel.metadata.tables[table].columns.keys()[0]
    for verb in ("UPDATE", "DELETE", "TRUNCATE"):
        statement = attempt(verb, table).replace(_free_column(table), column)
        for role in ROLES:
            assert refusal(doors[role], statement) in {NO_RIGHT, NO_WAY}, (role, statement)
        superuser = Database(house)
        assert refusal(superuser, statement) == NO_WAY
        superuser.close()


FORBIDDEN = [
    pytest.param("api", "UPDATE population SET clients = 1", id="the size of a population"),
    pytest.param("api", "UPDATE population SET delta = '0.1'", id="a promise"),
    pytest.param("api", "UPDATE policy_revision SET source = ''", id="a policy's text"),
    pytest.param("worker", "UPDATE job SET rounds = 1", id="what was asked for"),
    pytest.param("worker", "UPDATE reservation SET rounds_reserved = 9", id="a reservation"),
    pytest.param("worker", "SELECT password_hash FROM user_account", id="a password's hash"),
    pytest.param("worker", "SELECT sha256 FROM access_token", id="a token's hash"),
    pytest.param("auditor", "SELECT password_hash FROM user_account", id="also to auditors"),
    pytest.param("auditor", "SELECT * FROM job_release", id="a withheld model"),
    pytest.param("api", "ALTER TABLE ledger_entry DISABLE TRIGGER ALL", id="a guard"),
    pytest.param("api", "DROP TRIGGER ledger_entry_no_change ON ledger_entry", id="its trigger"),
    pytest.param("worker", "DROP TABLE ledger_entry", id="the ledger"),
    pytest.param("api", "CREATE TABLE mine (n int)", id="a table of its own"),
    pytest.param("api", "SET session_replication_role = replica", id="triggers for a session"),
    pytest.param("worker", "CREATE ROLE another", id="another role"),
]


@pytest.mark.parametrize(("role", "statement"), FORBIDDEN)
def test_what_a_taken_over_process_would_try(
    doors: dict[Role, Database], role: Role, statement: str
) -> None:
    assert refusal(doors[role], statement) == NO_RIGHT


def test_an_auditors_session_only_reads(doors: dict[Role, Database]) -> None:
    with doors["auditor"].engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW default_transaction_read_only").scalar() == "on"


def test_passwords_are_stored_as_verifiers_and_setting_up_again_changes_nothing(
    house: str,
) -> None:
    database = Database(house)
    query = f"SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE '{PREFIX}%%'"
    acl = "SELECT relname, relacl::text FROM pg_class WHERE relacl IS NOT NULL ORDER BY 1"
    with database.engine.connect() as connection:
        stored: dict[str, Any] = dict(connection.exec_driver_sql(query).all())
        before = connection.exec_driver_sql(acl).all()
    assert stored[f"{PREFIX}_api"].startswith("SCRAM-SHA-256$")
    assert stored[f"{PREFIX}_worker"] is None

    roles.set_up(database, PREFIX)

    with database.engine.connect() as connection:
        assert dict(connection.exec_driver_sql(query).all()) == stored
        assert connection.exec_driver_sql(acl).all() == before
    database.close()


def _as(market: Market, database: Database) -> Services:
    """The services of one process."""
    given = market.services
    return Services(given.settings, database, given.engine, given.clock, given.new_id)


def test_the_whole_way_of_a_job_under_the_roles(
    doors: dict[Role, Database], tmp_path: Path
) -> None:
    with support.engine(processes=1) as engine:
        market = support.open_market(doors["api"], engine, tmp_path)
        request = support.request(market.dataset_id, rounds=3)
        quoting.quote(market.services, RESEARCHER, request)
        job_id = admission.submit(market.services, RESEARCHER, request, "a key").job.id
        with pytest.raises(Refused, match="policy_denied"):
            admission.submit(
                market.services,
                RESEARCHER,
                support.request(market.dataset_id, purpose="ads"),
                "another key",
            )

        _work(_as(market, doors["worker"]), job_id)

        Housekeeping(market.services, lambda _: None).step()
        notary = Notary(_as(market, doors["api"]))
        notary.open()
        notary.step()
        assert notary.state == "ok"
        with doors["api"].read() as session:
            found = settlement.result(session, RESEARCHER, job_id)
        assert found.data
        _audit(doors["auditor"], market)


def _work(services: Services, job_id: str) -> None:
    """What a worker process does: signs of life, housekeeping, rounds."""
    with services.database.unit_of_work() as session:
        presence.beat(session, "w1")
    Housekeeping(services, lambda _: None).step()
    tools = Tools(open_trainer=Stable(), noise=lambda: NoiseSource(bytes(32)))
    assert coordinator.run(services, job_id, worker="w1", tools=tools) == "ended"
    with services.database.unit_of_work() as session:
        presence.leave(session, "w1")


def _audit(database: Database, market: Market) -> None:
    """Export as the auditor, and verify it as a stranger would."""
    with database.read() as session:
        lines = list(export_lines(session))
    (signer,) = log_keys.signers(market.services.settings.key_directory())
    report = verify(lines, asked=Asked((signer.verifier,)))
    assert report.ok, report
    assert any(b'"kind":"charge"' in line for line in lines)


@pytest.fixture
def humble(_postgres_template: str) -> Iterator[str]:
    """A database whose owner may not create roles; answers the owner's URL."""
    owner = f"humble_{secrets.token_hex(4)}"
    administrate(
        _postgres_template, f"CREATE ROLE {owner} LOGIN", f"CREATE DATABASE {owner} OWNER {owner}"
    )
    yield named(_postgres_template, database=owner, username=owner)
    administrate(_postgres_template, f"DROP DATABASE {owner} WITH (FORCE)")
    names = [owner, *(f"{owner}_{role}" for role in ROLES)]
    administrate(_postgres_template, *(f'DROP ROLE IF EXISTS "{name}"' for name in names))


def test_where_roles_may_not_be_created_an_administrator_is_told_how(
    humble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = str(sa.make_url(humble).username)
    monkeypatch.setenv("DATABASE_URL", humble)
    monkeypatch.setenv("PRIVACY_GATEWAY_DATABASE_ROLE_PREFIX", owner)
    app = typer.Typer()
    register(app)

    def migrate(*words: str) -> Any:
        return CliRunner().invoke(app, ["migrate", *words, "--state", str(tmp_path)])

    told = migrate("--roles")
    assert told.exit_code != 0
    lines = [line for line in told.stdout.splitlines() if line.endswith(";")]
    assert any(line.startswith("CREATE ROLE") for line in lines)
    administrate(named(humble, username="gateway"), *lines)

    done = migrate("--roles")
    assert (done.exit_code, f"{owner}_worker" in done.stdout) == (0, True), done.output
    assert migrate().exit_code == 0, "a later migration renews the privileges"
    api = Database(named(humble, username=f"{owner}_api"))
    schema.require_current(api)
    assert refusal(api, "DELETE FROM ledger_entry") == NO_RIGHT
    assert refusal(api, "SELECT 1 FROM ledger_entry") is None
    api.close()


def test_sqlite_has_no_roles(sqlite_database: Database) -> None:
    with pytest.raises(Refused, match="unsupported"):
        roles.set_up(sqlite_database, PREFIX)
    assert not roles.renew(sqlite_database, PREFIX)
