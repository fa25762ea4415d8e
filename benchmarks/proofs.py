"""How long does the log take to prove something, when it has a million leaves?"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa

from accounting import log
from accounting.tables import LOG_LEAF, LOG_NODE
from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Act, Sizes, alternate
from kit.db import Database
from privacy_gateway import merkle

PROOFS = 50
BATCH = 50_000

Row = dict[str, Any]


def ask(sizes: Sizes) -> Iterator[Table]:
    """Inclusion and consistency proofs at random places, read from both databases."""
    leaves = 1_000_000 if sizes.full else 10_000 if sizes.quick else 100_000
    table = Table(
        "proofs",
        "proofs of the log, from the nodes in the database",
        ("database", "what", "leaves", "p50 ms", "p99 ms", "hashes"),
    )
    with markets.scratch() as folder, markets.databases(folder) as databases:
        for name, database in databases.items():
            _grow(database, leaves)
            for what, size, found in _proofs(database, leaves, sizes.runs):
                table.add(name, what, leaves, found[0] * 1000, found[1] * 1000, size)
    table.notes.append(
        "one open transaction; target ≤ 1 ms at 1e6 leaves; a check takes no database"
    )
    yield table


def _proofs(
    database: Database, leaves: int, runs: int
) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Each kind of proof at the same random places, in turns."""
    chosen = random.Random(7)
    with database.read() as session:
        for what in ("inclusion", "consistency", "root"):
            acts: dict[str, Act] = {}
            for number in range(PROOFS):
                place = log.Place(chosen.randrange(leaves - 1), "pop_bench", 1, "0" * 64)
                first = chosen.randrange(1, leaves)
                choice: dict[str, Act] = {
                    "inclusion": partial(log.inclusion, session, place, leaves),
                    "consistency": partial(log.consistency, session, first, leaves),
                    "root": partial(log.root, session, first),
                }
                acts[f"{number}"] = choice[what]
            taken = alternate(acts, runs=runs)
            every = sorted(duration for found in taken.values() for duration in found.durations)
            size = max(len(getattr(act(), "path", ())) for act in acts.values())
            yield what, size, (every[len(every) // 2], every[len(every) * 99 // 100])


def _grow(database: Database, leaves: int) -> None:
    """A tree over made-up seals, as the sequencer would have left it, without the entries."""
    with _unbound(database) as write:
        frontier, nodes, places = merkle.Frontier(), [], []
        for place in range(leaves):
            seal = hashlib.sha256(b"%d" % place).digest()
            for level, at, hash_ in frontier.append(merkle.leaf_hash(seal)):
                nodes.append({"level": level, "place": at, "hash": hash_})
            places.append({"place": place, "population_id": "pop_bench", "seq": place + 1})
            if len(places) == BATCH or place == leaves - 1:
                write(sa.insert(LOG_LEAF), places)
                write(sa.insert(LOG_NODE), nodes)
                nodes, places = [], []


@contextmanager
def _unbound(database: Database) -> Iterator[Callable[[sa.Insert, list[Row]], object]]:
    """A connection on which leaves may stand without their entries."""
    with database.read() as session:
        bind = session.connection().engine
        url, sqlite = bind.url, bind.dialect.name == "sqlite"
    # SQLite's own default is not to look at foreign keys.
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        if not sqlite:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        yield connection.execute
    engine.dispose()
