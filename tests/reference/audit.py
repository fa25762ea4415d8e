"""The whole database against the reference ledger: every entry, every balance, every seal.

Used after soaks, crashes and full disks. It reads the tables by plain SQL and hashes by itself, so
that it believes nothing the ledger's own reading verbs say. It must never repair anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from kit.db import Database
from tests.reference.ledger import EXACT, FEMTO, Population, plus, share_of_delta_spent, within


@dataclass
class Audit:
    """What was found, for further questions: populations replayed, seals in the ledger."""

    populations: dict[str, Population] = field(default_factory=dict)
    seals: set[str] = field(default_factory=set)
    entries: int = 0

    def charged_rounds(self) -> int:
        """Rounds charged over all populations."""
        return sum(job.charged for one in self.populations.values() for job in one.jobs.values())


def audit(database: Database, acknowledged: Iterable[str] = ()) -> Audit:
    """Replay everything; assert that it is what the tables say, and that nothing told is lost.

    Args:
        database: quiescent.
        acknowledged: seals (hashes of entries) that clients were told of.
    """
    found, heads = Audit(), dict[str, tuple[int, str]]()
    with database.engine.connect() as connection:
        entries = connection.execution_options(yield_per=5000).exec_driver_sql(
            "SELECT population_id, seq, leaf, prev_hash, hash FROM ledger_entry"
            " ORDER BY population_id, seq"
        )
        for row in entries:
            seq, seal = heads.get(row.population_id, (0, "0" * 64))
            assert (row.seq, row.prev_hash) == (seq + 1, seal), "entries are gap-free and chained"
            sealed = hashlib.sha256(bytes.fromhex(row.prev_hash) + row.leaf.encode()).hexdigest()
            assert row.hash == sealed
            heads[row.population_id] = row.seq, sealed
            _replay(found, row.population_id, json.loads(row.leaf))
            found.seals.add(sealed)
            found.entries += 1
    _compare(database, found, heads)
    lost = [seal for seal in acknowledged if seal not in found.seals]
    assert not lost, f"{len(lost)} acknowledged entries are lost"
    return found


def _replay(found: Audit, name: str, leaf: dict[str, Any]) -> None:
    """One entry: the reference must allow it, and leave the balance it states."""
    if leaf["kind"] == "open":
        terms = leaf["terms"]
        budget = (terms["epsilon_nano"], terms["delta"], terms["weights"])
        one = Population(*budget, leaf["clients"])
        found.populations[name] = one
    else:
        one = found.populations[name]
        answer = one.apply(leaf)
        assert (answer.code, answer.wrote) == (None, True), f"{name} {leaf['seq']}: {answer}"
        assert answer.rounds in (0, leaf.get("rounds"))
    assert one.entries == leaf["seq"]
    stated = leaf["balance"]
    assert tuple(stated["charged"]) == one.charged
    assert tuple(stated["reserved"]) == one.reserved
    assert (stated["epsilon_nano"], stated["frozen"]) == (one.epsilon_nano, one.frozen)


def _compare(database: Database, found: Audit, heads: dict[str, tuple[int, str]]) -> None:
    """The tables' balances are the replayed ones, and those are the sums over the jobs."""
    with database.engine.connect() as connection:
        populations = {row.id: row for row in _rows(connection, "population")}
        assert populations.keys() == found.populations.keys()
        for name, one in found.populations.items():
            row = populations[name]
            assert one.summed() == (one.charged, one.reserved)
            assert (_vector(row.charged), _vector(row.reserved)) == one.summed()
            assert _vector(row.limits) == one.limits
            assert (row.head_seq, row.head_hash) == heads[name]
            assert bool(row.frozen) == one.frozen
            assert within(one.limits, plus(one.charged, one.reserved)), "an over-admission"
            if one.weights != EXACT:
                assert sum(one.weights) <= FEMTO
                spent = share_of_delta_spent(one.limits, one.epsilon_nano)
                assert spent <= float(one.delta) * (1 + 1e-9)
        _compare_shares(connection, found, "quota", "researcher", "researcher_id")
        _compare_shares(connection, found, "project_quota", "project", "project")
        _compare_blocks(connection, found)
        _compare_reservations(connection, found)


def _compare_shares(
    connection: sa.Connection, found: Audit, table: str, kind: str, column: str
) -> None:
    rows = {(row.population_id, getattr(row, column)): row for row in _rows(connection, table)}
    expected = {
        (name, holder[1]): (one, holder, share)
        for name, one in found.populations.items()
        for holder, share in one.shares.items()
        if holder[0] == kind
    }
    assert rows.keys() == expected.keys()
    for key, (one, holder, share) in expected.items():
        row = rows[key]
        assert share == one.summed_of(holder)
        assert (_vector(row.charged), _vector(row.reserved)) == share
        quota = one.quotas.get(holder)
        assert (row.epsilon_nano, row.limits and _vector(row.limits)) == (quota or (None, None))


def _compare_blocks(connection: sa.Connection, found: Audit) -> None:
    rows = {(row.population_id, row.name): row for row in _rows(connection, "budget_block")}
    expected = {
        (name, block): (one, there)
        for name, one in found.populations.items()
        for block, there in one.blocks.items()
    }
    assert rows.keys() == expected.keys()
    for key, (one, block) in expected.items():
        row = rows[key]
        assert (block.charged, block.reserved) == one.summed_in(key[1])
        assert (_vector(row.charged), _vector(row.reserved)) == one.summed_in(key[1])
        assert (row.clients, row.members) == (block.clients, block.members)
        total = plus(plus(one.charged, one.reserved), plus(block.charged, block.reserved))
        assert within(one.limits, total), "an over-admission of one block's people"


def _compare_reservations(connection: sa.Connection, found: Audit) -> None:
    rows = {row.job_id: row for row in _rows(connection, "reservation")}
    jobs = {name: job for one in found.populations.values() for name, job in one.jobs.items()}
    assert rows.keys() == jobs.keys()
    for name, job in jobs.items():
        row = rows[name]
        stored = (row.rounds_reserved, row.rounds_charged, bool(row.closed), row.fence)
        assert stored == (job.rounds, job.charged, job.closed, job.fence)
        assert _vector(row.per_round) == job.price


def _rows(connection: sa.Connection, table: str) -> Iterable[Any]:
    return connection.exec_driver_sql(f"SELECT * FROM {table}").all()


def _vector(text: Any) -> tuple[int, ...]:
    return tuple(json.loads(text) if isinstance(text, str) else text)
