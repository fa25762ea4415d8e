"""What the accountant stores. Every invariant that SQL can hold is held here by SQL.

Ledger entries are append-only: triggers on both databases refuse UPDATE and DELETE, and the same
statements serve `create_all` and the migrations. These classes do not validate; the API models in
`privacy_gateway.schemas` do.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from accounting import guards
from kit.guards import Guard, protect
from privacy_gateway import rdp

KINDS: Final = (
    "open",
    "grant",
    "reserve",
    "charge",
    "void",
    "freeze",
    "unfreeze",
    "quota",
    "note",
    "deny",
)


class Vector(sa.types.TypeDecorator[tuple[int, ...]]):
    """A tuple of integers as JSON text: exact on both databases and readable by an auditor."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[int, ...] | None, dialect: sa.Dialect) -> str | None:
        """Tuple to text; refuses numbers that other readers could not hold."""
        if value is None:
            return None
        if max(value) > rdp.INT64_MAX or min(value) < -rdp.INT64_MAX:
            raise OverflowError("a balance does not fit 64 bits")
        return f"[{','.join(map(str, value))}]"

    def process_result_value(
        self, value: str | None, dialect: sa.Dialect
    ) -> tuple[int, ...] | None:
        """Text to tuple."""
        return None if value is None else _numbers(value)


@lru_cache(maxsize=4096)
def _numbers(text: str) -> tuple[int, ...]:
    """Weights, limits and costs are read again and again, and a tuple cannot be changed."""
    return tuple(json.loads(text))


def _text(length: int | None = None, *, nullable: bool = False, **options: Any) -> Any:
    kind = sa.Text() if length is None else sa.String(length)
    return Field(default=None, sa_column=sa.Column(kind, nullable=nullable, **options))


def _number(*, nullable: bool = False) -> Any:
    return Field(default=None, sa_column=sa.Column(sa.BigInteger, nullable=nullable))


def _vector(*, nullable: bool = False) -> Any:
    return Field(default=None, sa_column=sa.Column(Vector, nullable=nullable))


class Population(SQLModel, table=True):
    """People who share one budget, its frozen terms, and its balance after the head entry."""

    __tablename__ = "population"
    __table_args__ = (
        sa.CheckConstraint("clients BETWEEN 1 AND 1000000000", name="population_clients"),
        sa.CheckConstraint("epsilon_nano > 0", name="population_epsilon"),
        sa.CheckConstraint("version >= 1 AND head_seq >= 1", name="population_version"),
        sa.CheckConstraint("length(head_hash) = 64", name="population_head"),
        # Vectors are JSON text of integers: a minus sign anywhere is a number below zero.
        sa.CheckConstraint(
            "charged NOT LIKE '%-%' AND reserved NOT LIKE '%-%' AND weights NOT LIKE '%-%'",
            name="population_not_negative",
        ),
        sa.CheckConstraint(
            "length(id) > 0 AND length(name) > 0 AND length(owner_id) > 0 AND length(delta) > 0",
            name="population_named",
        ),
    )

    id: str = Field(sa_column=sa.Column(sa.String(64), primary_key=True))
    name: str = _text(200)
    privacy_unit: str = _text(200)
    clients: int = _number()
    owner_id: str = _text(64, index=True)
    epsilon_nano: int = _number()
    delta: str = _text(32)
    weights: tuple[int, ...] = _vector()
    limits: tuple[int, ...] = _vector()
    charged: tuple[int, ...] = _vector()
    reserved: tuple[int, ...] = _vector()
    frozen: bool = Field(sa_column=sa.Column(sa.Boolean, nullable=False))
    second_person: bool = Field(default=False, sa_column=sa.Column(sa.Boolean, nullable=False))
    blocks: int = Field(default=0, sa_column=sa.Column(sa.BigInteger, nullable=False))
    version: int = _number()
    head_seq: int = _number()
    head_hash: str = _text(64)
    created_at: int = _number()


class Quota(SQLModel, table=True):
    """One researcher's spending within a population, and the share when the owner set one."""

    __tablename__ = "quota"
    __table_args__ = (
        sa.CheckConstraint("epsilon_nano IS NULL OR epsilon_nano > 0", name="quota_epsilon"),
        sa.CheckConstraint(
            "(epsilon_nano IS NULL) = (weights IS NULL) AND (weights IS NULL) = (limits IS NULL)",
            name="quota_terms",
        ),
        sa.CheckConstraint(
            "charged NOT LIKE '%-%' AND reserved NOT LIKE '%-%'", name="quota_not_negative"
        ),
        sa.CheckConstraint("length(researcher_id) > 0", name="quota_named"),
    )

    population_id: str = Field(
        sa_column=sa.Column(sa.String(64), sa.ForeignKey("population.id"), primary_key=True)
    )
    researcher_id: str = Field(sa_column=sa.Column(sa.String(64), primary_key=True))
    epsilon_nano: int | None = _number(nullable=True)
    weights: tuple[int, ...] | None = _vector(nullable=True)
    limits: tuple[int, ...] | None = _vector(nullable=True)
    charged: tuple[int, ...] = _vector()
    reserved: tuple[int, ...] = _vector()


class Reservation(SQLModel, table=True):
    """What a job may still charge. Closed for ever once settled."""

    __tablename__ = "reservation"
    __table_args__ = (
        sa.CheckConstraint("rounds_reserved >= 1", name="reservation_rounds"),
        sa.CheckConstraint(
            "rounds_charged BETWEEN 0 AND rounds_reserved", name="reservation_charged"
        ),
        sa.CheckConstraint("fence >= 0", name="reservation_fence"),
        sa.CheckConstraint("length(mechanism_digest) = 64", name="reservation_digest"),
        sa.CheckConstraint("per_round NOT LIKE '%-%'", name="reservation_not_negative"),
        sa.CheckConstraint(
            "NOT whole OR rounds_charged = 0 OR rounds_charged = rounds_reserved",
            name="reservation_whole",
        ),
        sa.CheckConstraint(
            "length(job_id) > 0 AND length(researcher_id) > 0", name="reservation_named"
        ),
    )

    job_id: str = Field(sa_column=sa.Column(sa.String(64), primary_key=True))
    population_id: str = _text(64)
    researcher_id: str = _text(64)
    project: str | None = _text(100, nullable=True)
    block: str | None = _text(100, nullable=True)
    mechanism: str = _text()
    mechanism_digest: str = _text(64)
    per_round: tuple[int, ...] = _vector()
    whole: bool = Field(sa_column=sa.Column(sa.Boolean, nullable=False))
    rounds_reserved: int = _number()
    rounds_charged: int = _number()
    fence: int = _number()
    closed: bool = Field(sa_column=sa.Column(sa.Boolean, nullable=False))
    lease_expires_at: int = _number()
    created_at: int = _number()


class LedgerEntry(SQLModel, table=True):
    """One sealed entry. `leaf` is the truth; the other columns are indexes into it."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        sa.UniqueConstraint("population_id", "seq", name="ledger_entry_seq"),
        sa.UniqueConstraint("population_id", "prev_hash", name="ledger_entry_no_fork"),
        sa.UniqueConstraint("job_id", "attempt", "round_first", name="ledger_entry_attempt"),
        sa.CheckConstraint("seq >= 1", name="ledger_entry_first"),
        sa.CheckConstraint(
            "kind IN ({})".format(", ".join(f"'{kind}'" for kind in KINDS)),
            name="ledger_entry_kind",
        ),
        sa.CheckConstraint(
            "kind <> 'charge' OR (job_id IS NOT NULL AND round_first >= 1 AND rounds >= 1"
            " AND attempt >= 1 AND fence >= 0)",
            name="ledger_entry_charge",
        ),
        sa.CheckConstraint("kind = 'charge' OR round_first IS NULL", name="ledger_entry_rounds"),
        sa.CheckConstraint(
            "length(hash) = 64 AND length(prev_hash) = 64", name="ledger_entry_hash"
        ),
        sa.CheckConstraint("(seq = 1) = (kind = 'open')", name="ledger_entry_open"),
        sa.CheckConstraint(
            "kind NOT IN ('reserve', 'charge', 'void')"
            " OR (job_id IS NOT NULL AND researcher_id IS NOT NULL AND rounds IS NOT NULL)",
            name="ledger_entry_bearing",
        ),
        sa.CheckConstraint("rounds IS NULL OR rounds >= 0", name="ledger_entry_count"),
        sa.Index("ledger_entry_time", "population_id", "at"),
        sa.Index("ledger_entry_job", "job_id"),
        sa.Index("ledger_entry_researcher", "researcher_id"),
    )

    id: int = Field(
        default=None,
        sa_column=sa.Column(
            sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
    )
    population_id: str = _text(64)
    seq: int = _number()
    kind: str = _text(16)
    at: int = _number()
    job_id: str | None = _text(64, nullable=True)
    researcher_id: str | None = _text(64, nullable=True)
    actor_id: str | None = _text(64, nullable=True)
    round_first: int | None = _number(nullable=True)
    rounds: int | None = _number(nullable=True)
    attempt: int | None = _number(nullable=True)
    fence: int | None = _number(nullable=True)
    leaf: str = _text()
    prev_hash: str = _text(64)
    hash: str = _text(64)


class LogLeaf(SQLModel, table=True):
    """Which entry stands at which place of the log. Places are gap-free, from 0.

    A population's entries enter in the order of their `seq`, so its integrated part is a prefix of
    its chain, and the largest `seq` here tells where to go on.
    """

    __tablename__ = "log_leaf"
    __table_args__ = (
        sa.UniqueConstraint("population_id", "seq", name="log_leaf_entry"),
        sa.ForeignKeyConstraint(
            ["population_id", "seq"],
            ["ledger_entry.population_id", "ledger_entry.seq"],
            name="log_leaf_of",
        ),
        sa.CheckConstraint("place >= 0", name="log_leaf_place"),
    )

    place: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True, autoincrement=False))
    population_id: str = _text(64)
    seq: int = _number()


class LogNode(SQLModel, table=True):
    """Hash of one complete subtree of the log: leaves from place·2^level, 2^level of them."""

    __tablename__ = "log_node"
    __table_args__ = (
        sa.CheckConstraint("level BETWEEN 0 AND 62 AND place >= 0", name="log_node_place"),
        sa.CheckConstraint("length(hash) = 32", name="log_node_hash"),
    )

    level: int = Field(sa_column=sa.Column(sa.SmallInteger, primary_key=True, autoincrement=False))
    place: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True, autoincrement=False))
    hash: bytes = Field(sa_column=sa.Column(sa.LargeBinary, nullable=False))


class LogCheckpoint(SQLModel, table=True):
    """A signed statement about the log; `note` is the truth, the rest are indexes into it."""

    __tablename__ = "log_checkpoint"
    __table_args__ = (
        sa.CheckConstraint("size >= 1", name="log_checkpoint_size"),
        sa.CheckConstraint("length(root) = 64", name="log_checkpoint_root"),
        sa.CheckConstraint("length(origin) > 0 AND length(note) > 0", name="log_checkpoint_signed"),
        sa.Index("log_checkpoint_at_size", "size"),
    )

    id: int = Field(
        default=None,
        sa_column=sa.Column(
            sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
    )
    origin: str = _text(200)
    size: int = _number()
    root: str = _text(64)
    note: str = _text()
    signed_at: int = _number()


class LogKey(SQLModel, table=True):
    """A public key that has signed checkpoints of this log; kept for ever."""

    __tablename__ = "log_key"

    public: str = Field(sa_column=sa.Column(sa.String(400), primary_key=True))
    first_signed_at: int = _number()


POPULATION: Final = SQLModel.metadata.tables["population"]
QUOTA: Final = SQLModel.metadata.tables["quota"]
RESERVATION: Final = SQLModel.metadata.tables["reservation"]
ENTRY: Final = SQLModel.metadata.tables["ledger_entry"]
LOG_LEAF: Final = SQLModel.metadata.tables["log_leaf"]
LOG_NODE: Final = SQLModel.metadata.tables["log_node"]
LOG_CHECKPOINT: Final = SQLModel.metadata.tables["log_checkpoint"]
LOG_KEY: Final = SQLModel.metadata.tables["log_key"]
LOG_TABLES: Final = ("log_leaf", "log_node", "log_checkpoint", "log_key")

for _table in (RESERVATION, ENTRY):
    _table.append_constraint(
        sa.ForeignKeyConstraint(["population_id"], ["population.id"], name=f"{_table.name}_of")
    )


@sa.event.listens_for(ENTRY, "after_create")
def _chain(_table: Any, connection: sa.Connection, **_: Any) -> None:
    for statement in guards.chain_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)


for _table in (ENTRY, LOG_LEAF, LOG_NODE, LOG_CHECKPOINT, LOG_KEY):
    protect(_table, guards.sealed(_table.name))

# What a budget promises, and about whom, is said once; what was spent only ever moves on.
protect(
    POPULATION,
    Guard("population", ("id", "name", "privacy_unit", "clients", "owner_id", "delta", "weights")),
)
protect(
    RESERVATION,
    Guard(
        "reservation",
        (
            "job_id",
            "population_id",
            "researcher_id",
            "project",
            "block",
            "mechanism",
            "mechanism_digest",
            "per_round",
            "whole",
            "rounds_reserved",
        ),
    ),
)
protect(QUOTA, Guard("quota", ("population_id", "researcher_id")))
