"""PostgreSQL databases that tests take in turn: making one costs more than most tests.

A test gets an empty database and gives it back. It is emptied and given to the next one only where
nothing else about it has changed and nobody else is connected; any doubt drops it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from kit.db import Database

LARGEST_BYTES = 16 << 20
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> {me}"
# Structure, rights, settings, and what ANALYZE would change in the plans of the next test.
_STRUCTURE = """
SELECT md5(string_agg(part, ';' ORDER BY part)) FROM (
  SELECT concat_ws(',', 'class', oid, relname, relkind, relacl, reltuples) AS part
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(',', 'column', attrelid, attname, atttypid, attnotnull, attacl)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(',', 'trigger', oid, tgname, tgenabled) FROM pg_trigger
  UNION ALL SELECT concat_ws(',', 'constraint', oid, conname) FROM pg_constraint
  UNION ALL SELECT concat_ws(',', 'function', oid, proname, prosrc, proacl)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(',', 'schema', oid, nspname, nspacl)
    FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'
  UNION ALL SELECT concat_ws(',', 'setting', setrole, setconfig) FROM pg_db_role_setting
    WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS parts
"""
_EMPTY = """
DO $$
DECLARE name text;
BEGIN
  SET LOCAL session_replication_role = replica;  -- what guards and foreign keys would refuse
  FOR name IN SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
  LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;
  FOR name IN SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace
  LOOP PERFORM setval(name::regclass, 1, false); END LOOP;
END $$
"""


class Pool:
    """Copies of one template on one server."""

    def __init__(self, server: str, template: str) -> None:
        """Nothing is made yet.

        Args:
            server: URL of a superuser on the server.
            template: name of the database that is copied.
        """
        self._server, self._template = server, template
        self._structures: dict[str, str] = {}
        self._free: list[str] = []

    @contextmanager
    def lent(self) -> Iterator[str]:
        """URL of an empty database of this test alone."""
        name = self._free.pop() if self._free else self._made()
        yield named(self._server, database=name)
        if self._emptied(name):
            self._free.append(name)
        else:
            drop(self._server, name)

    def _made(self) -> str:
        name = create(self._server, self._template)
        self._structures[name] = self._asked(name, _STRUCTURE)
        return name

    def _emptied(self, name: str) -> bool:
        """Whether the next test may have it; every row is gone then."""
        handle = Database(named(self._server, database=name))
        try:
            with handle.engine.begin() as session:
                me = session.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
                if session.exec_driver_sql(_OTHERS.format(me=me)).scalar_one():
                    return False
                size = "SELECT pg_database_size(current_database())"
                if session.exec_driver_sql(size).scalar_one() > LARGEST_BYTES:
                    return False
                if session.exec_driver_sql(_STRUCTURE).scalar_one() != self._structures[name]:
                    return False
                session.exec_driver_sql(_EMPTY)
            return True
        except sa.exc.DBAPIError:
            return False
        finally:
            handle.close()

    def _asked(self, name: str, question: str) -> str:
        handle = Database(named(self._server, database=name))
        with handle.engine.connect() as connection:
            answer = str(connection.exec_driver_sql(question).scalar_one())
        handle.close()
        return answer


def create(server: str, template: str | None, name: str | None = None) -> str:
    """Make a database; its name."""
    name = name or f"t_{secrets.token_hex(6)}"
    execute(server, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    return name


def drop(server: str, name: str) -> None:
    """Drop a database, whoever is connected."""
    execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def named(url: str, **parts: Any) -> str:
    """The URL with another user or database."""
    return sa.make_url(url).set(**parts).render_as_string(hide_password=False)


def execute(url: str, *statements: str) -> None:
    """Run statements outside of transactions."""
    handle = Database(url)
    with handle.engine.connect() as connection:
        free = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            free.exec_driver_sql(statement)
    handle.close()
