"""Who may do what in PostgreSQL: four roles, and one table their privileges are derived from.

`migrator` owns the schema, `api` is the gateway, `worker` runs jobs, `auditor` reads. A process
whose role is taken over can do no more than its own work: the worker never sees a password or a
token, the auditor writes nothing and reads no withheld model, and nobody at all changes a sealed
entry, a checkpoint, a decision or an event; there the triggers of `kit.guards` stop even the owner.
This module must never give a privilege that its table does not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlmodel import SQLModel

import accounting.tables_scope  # noqa: F401
import gateway.tables  # noqa: F401
import jobs.tables  # noqa: F401
from kit.db import Database
from kit.guards import GUARDS
from privacy_gateway.errors import Refused

Role = Literal["migrator", "api", "worker", "auditor"]
Verb = Literal["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"]

ROLES: Final[tuple[Role, ...]] = ("migrator", "api", "worker", "auditor")
PROCESSES: Final[tuple[Role, ...]] = ("api", "worker", "auditor")
VERBS: Final[tuple[Verb, ...]] = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_LETTERS: Final[dict[str, Verb]] = {"s": "SELECT", "i": "INSERT", "u": "UPDATE", "d": "DELETE"}
VERSIONS: Final = "alembic_version"

# One line a table: what api, worker and auditor may do. UPDATE never reaches a fixed column.
ACCESS: Final[dict[str, tuple[str, str, str]]] = {
    "population": ("siu", "su", "s"),
    "quota": ("siu", "siu", "s"),
    "project_quota": ("siu", "siu", "s"),
    "project": ("si", "s", "s"),
    "project_member": ("sid", "s", "s"),
    "proposal": ("siu", "", "s"),
    "budget_block": ("siu", "su", "s"),
    "block_member": ("si", "s", "s"),
    "reservation": ("siu", "su", "s"),
    "ledger_entry": ("si", "si", "s"),
    "log_leaf": ("si", "s", "s"),
    "log_node": ("si", "s", "s"),
    "log_checkpoint": ("si", "s", "s"),
    "log_key": ("si", "s", "s"),
    "dataset": ("siu", "s", "s"),
    "policy_revision": ("siu", "s", "s"),
    "policy_library": ("si", "si", "s"),
    "decision": ("si", "si", "s"),
    "idempotency": ("sid", "", ""),
    "job": ("siu", "su", "s"),
    "job_event": ("si", "si", "s"),
    "sweep": ("si", "", "s"),
    "sweep_member": ("si", "", "s"),
    "starting_weights": ("sid", "s", "s"),
    "job_approval": ("si", "s", "s"),
    "job_release": ("su", "siu", "s"),
    "receipt": ("si", "si", "s"),
    "outbox": ("siud", "siud", "s"),
    "worker_presence": ("s", "siud", "s"),
    "user_account": ("siu", "", "s"),
    "access_token": ("siu", "", ""),
    VERSIONS: ("s", "s", "s"),
}

HIDDEN: Final[dict[str, frozenset[str]]] = {
    "user_account": frozenset({"password_hash"}),
    "job_release": frozenset({"weights", "server_state"}),
    "starting_weights": frozenset({"data"}),
}
"""Columns an auditor does not read: secrets, and models an owner may withhold."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `set_up` did, or the SQL somebody else has to run first."""

    roles: tuple[str, ...]
    missing: tuple[str, ...] = ()
    sql: str = ""


def role_name(prefix: str, role: Role) -> str:
    """The name of a role on the server."""
    return f"{prefix}_{role}"


def allowed(role: Role, table: str) -> frozenset[Verb]:
    """What a process's role may do with a table; an unknown table is closed."""
    letters = ACCESS.get(table, ("", "", ""))[PROCESSES.index(role)]
    return frozenset(_LETTERS[letter] for letter in letters)


def columns(role: Role, table: str, verb: Verb) -> tuple[str, ...] | None:
    """The columns a verb is limited to; None for all of them."""
    named = [column.name for column in SQLModel.metadata.tables[table].columns]
    guard = GUARDS.get(table)
    if verb == "UPDATE" and guard is not None and guard.fixed is not None:
        return tuple(name for name in named if name not in guard.fixed)
    if verb == "SELECT" and role == "auditor" and table in HIDDEN:
        return tuple(name for name in named if name not in HIDDEN[table])
    return None


def creation(prefix: str, roles: Iterable[Role], user: str, database: str) -> list[str]:
    """Statements for somebody who may create roles; `user` is who migrates."""
    statements = []
    for role in roles:
        name = role_name(prefix, role)
        statements.append(f"CREATE ROLE {_quoted(name)} LOGIN NOINHERIT")
        if role == "auditor":
            statements.append(f"ALTER ROLE {_quoted(name)} SET default_transaction_read_only = on")
        if role == "migrator":
            owner = _quoted(name)
            statements += [
                f"GRANT {owner} TO {_quoted(user)}",
                f"GRANT CREATE ON SCHEMA public TO {owner}",
            ]
        statements.append(f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {_quoted(name)}")
    return statements


def grants(prefix: str, tables: Iterable[str]) -> Iterator[str]:
    """Statements of the tables' owner: all is taken away, then `ACCESS` is given."""
    everybody = ", ".join(_quoted(role_name(prefix, role)) for role in PROCESSES)
    yield "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    yield f"GRANT USAGE ON SCHEMA public TO {everybody}"
    for table in tables:
        yield f"REVOKE ALL ON {_quoted(table)} FROM PUBLIC, {everybody}"
        for role in PROCESSES:
            yield from _grants_on(prefix, role, table)
        yield from _owner_limits(prefix, table)


def set_up(database: Database, prefix: str, passwords: dict[Role, str] | None = None) -> Outcome:
    """Create what is missing of the roles, make `migrator` the owner, and set every privilege.

    Args:
        database: of a user who owns the schema, and may create roles unless all exist.
        prefix: of the roles' names.
        passwords: of roles that log in by password; sent as SCRAM verifiers only.

    Returns:
        The roles; or, where the user may not create them, `missing` and the SQL for somebody who
        may. Nothing was changed then.

    Raises:
        Refused: `unsupported` on SQLite, which has no roles.
    """
    if database.is_sqlite:
        raise Refused("unsupported", "SQLite has no roles: whoever opens the file owns it")
    with database.engine.begin() as connection:
        missing = [role for role in ROLES if role not in present(connection, prefix)]
        user = str(connection.scalar(sa.text("SELECT current_user")))
        name = str(connection.scalar(sa.text("SELECT current_database()")))
        statements = creation(prefix, missing, user, name)
        if missing and not _may_create(connection):
            names = tuple(role_name(prefix, role) for role in missing)
            return Outcome((), names, ";\n".join(statements) + ";")
        _run(connection, statements)
        _log_in(connection, prefix, passwords or {})
        apply(connection, prefix)
    return Outcome(tuple(role_name(prefix, role) for role in ROLES))


def present(connection: sa.Connection, prefix: str) -> frozenset[Role]:
    """Which of the roles the server knows."""
    query = sa.text("SELECT rolname FROM pg_roles")
    names = set(connection.execute(query).scalars())
    return frozenset(role for role in ROLES if role_name(prefix, role) in names)


def apply(connection: sa.Connection, prefix: str) -> None:
    """Hand the schema to `migrator` and set every privilege anew; the roles exist."""
    owner = _quoted(role_name(prefix, "migrator"))
    tables = _tables(connection)
    held = _held_by_others(connection, prefix)
    handed = [f"ALTER TABLE {_quoted(table)} OWNER TO {owner}" for table in tables if table in held]
    _run(connection, handed)
    for function in _functions(connection):
        _run(connection, [f"ALTER FUNCTION {_quoted(function)}() OWNER TO {owner}"])
    _run(connection, grants(prefix, tables))


def renew(database: Database, prefix: str) -> bool:
    """After a migration: the privileges of new tables, where the roles are set up at all."""
    if database.is_sqlite:
        return False
    with database.engine.begin() as connection:
        if present(connection, prefix) != frozenset(ROLES):
            return False
        apply(connection, prefix)
    return True


def _grants_on(prefix: str, role: Role, table: str) -> Iterator[str]:
    name, verbs = _quoted(role_name(prefix, role)), allowed(role, table)
    for verb in VERBS:
        if verb not in verbs:
            continue
        limited = None if table == VERSIONS else columns(role, table, verb)
        inside = "" if limited is None else f" ({', '.join(map(_quoted, limited))})"
        yield f"GRANT {verb}{inside} ON {_quoted(table)} TO {name}"
    sequence = None if table == VERSIONS else _sequence(table)
    if sequence is not None and "INSERT" in verbs:
        yield f"GRANT USAGE ON SEQUENCE {_quoted(sequence)} TO {name}"


def _owner_limits(prefix: str, table: str) -> Iterator[str]:
    """The owner too gets no verb that its table's guard refuses anyway.

    Checking a foreign key locks the row it names, in the owner's name, and a lock needs UPDATE of
    one column; so that much stays, and the trigger refuses the use of it.
    """
    guard = GUARDS.get(table)
    if guard is None:
        return
    owner = _quoted(role_name(prefix, "migrator"))
    verbs = "UPDATE, DELETE, TRUNCATE" if guard.append_only else "DELETE, TRUNCATE"
    yield f"REVOKE {verbs} ON {_quoted(table)} FROM {owner}"
    if guard.append_only:
        key = SQLModel.metadata.tables[table].primary_key.columns.keys()[0]
        yield f"GRANT UPDATE ({_quoted(key)}) ON {_quoted(table)} TO {owner}"


def _sequence(table: str) -> str | None:
    """The sequence of a table whose key counts itself."""
    column = SQLModel.metadata.tables[table].autoincrement_column
    if column is None or column.autoincrement is not True:
        return None
    return f"{table}_{column.name}_seq"


def _tables(connection: sa.Connection) -> list[str]:
    """Our tables that are there, in one order."""
    there = set(sa.inspect(connection).get_table_names())
    return sorted(there & (set(SQLModel.metadata.tables) | {VERSIONS}))


def _held_by_others(connection: sa.Connection, prefix: str) -> frozenset[str]:
    """Tables that somebody else than `migrator` owns."""
    query = sa.text(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tableowner <> :owner"
    )
    owner = {"owner": role_name(prefix, "migrator")}
    return frozenset(connection.execute(query, owner).scalars())


def _functions(connection: sa.Connection) -> list[str]:
    """The functions of our triggers."""
    query = sa.text(
        "SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_trigger t ON t.tgfoid = p.oid"
        " JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'public' AND NOT t.tgisinternal"
    )
    return sorted(connection.execute(query).scalars())


def _may_create(connection: sa.Connection) -> bool:
    query = sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    return bool(connection.scalar(query))


def _log_in(connection: sa.Connection, prefix: str, passwords: dict[Role, str]) -> None:
    """Set passwords as verifiers, so that no server log ever holds one."""
    raw: Any = connection.connection.driver_connection
    for role, password in passwords.items():
        name = role_name(prefix, role)
        verifier = raw.pgconn.encrypt_password(
            password.encode(), name.encode(), b"scram-sha-256"
        ).decode()
        _run(connection, [f"ALTER ROLE {_quoted(name)} PASSWORD '{verifier}'"])


def _run(connection: sa.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
