"""What the databases refuse of the ledger, whoever asks: changes of entries, gaps and forks.

Statements only, for `create_all` and the migrations alike. This module must never import a table,
so that a migration means the same thing for ever.
"""

from __future__ import annotations

from kit.guards import Guard

_TRIGGER = "CREATE TRIGGER ledger_entry_follows BEFORE INSERT ON ledger_entry"


def append_only_statements(dialect: str, table: str = "ledger_entry") -> list[str]:
    """SQL that forbids UPDATE, DELETE and TRUNCATE of what was sealed.

    Args:
        dialect: `sqlite` or `postgresql`. Migrations run the same statements as `create_all`.
        table: `ledger_entry` or one of the log's.
    """
    return sealed(table).create(dialect)


def drop_append_only_statements(dialect: str, table: str = "ledger_entry") -> list[str]:
    """The way back, for migrations that go down."""
    return sealed(table).drop(dialect)


def sealed(table: str) -> Guard:
    """The guard of a table whose rows are never changed."""
    return Guard(table, refusal="ledger entries are append-only" if table == "ledger_entry" else "")


def chain_statements(dialect: str) -> list[str]:
    """SQL that lets an entry enter only behind the one whose hash it seals: no gap, no fork."""
    genesis = "0" * 64
    first = f"NEW.seq = 1 AND NEW.prev_hash = '{genesis}'"
    refusal = "a ledger entry follows the one it seals"
    if dialect == "sqlite":
        follows = (
            "EXISTS (SELECT 1 FROM ledger_entry WHERE population_id = NEW.population_id"
            " AND seq = NEW.seq - 1 AND hash = NEW.prev_hash)"
        )
        stop = f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
        return [f"{_TRIGGER} WHEN NOT ({first} OR {follows}) {stop}"]
    # The order names the one index that has it: a plan made while the table was small, and kept
    # by the session, would else read the whole chain for every entry.
    follows = (
        "(NEW.seq - 1, NEW.prev_hash) = (SELECT seq, hash FROM ledger_entry"
        " WHERE population_id = NEW.population_id AND seq < NEW.seq ORDER BY seq DESC LIMIT 1)"
    )
    function = (
        "CREATE OR REPLACE FUNCTION ledger_entry_follows() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF ({first} OR {follows}) IS NOT TRUE THEN RAISE EXCEPTION '{refusal}' "
        "USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW; END $$"
    )
    return [function, f"{_TRIGGER} FOR EACH ROW EXECUTE FUNCTION ledger_entry_follows()"]


def drop_chain_statements(dialect: str) -> list[str]:
    """The way back, for migrations that go down or rebuild the table."""
    if dialect == "sqlite":
        return ["DROP TRIGGER IF EXISTS ledger_entry_follows"]
    return [
        "DROP TRIGGER IF EXISTS ledger_entry_follows ON ledger_entry",
        "DROP FUNCTION IF EXISTS ledger_entry_follows()",
    ]
