"""Who a budget's spending counts for: blocks of people, their members, projects' shares.

A person of a population lies in one block at most, which the primary key of `block_member` says;
the hash in it is keyed with a secret that never leaves the installation. These tables must never
hold an id of a person.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from accounting.tables import Vector
from kit.guards import Guard, protect

_NOT_NEGATIVE: Final = "charged NOT LIKE '%-%' AND reserved NOT LIKE '%-%'"


def _column(kind: Any, **options: Any) -> Any:
    return Field(default=None, sa_column=sa.Column(kind, **{"nullable": False} | options))


def _population() -> Any:
    return _column(sa.String(64), primary_key=True)


class BudgetBlock(SQLModel, table=True):
    """People of a population who share nothing with its other blocks, and what counts for them.

    `charged` and `reserved` are of this block alone; what counts for everybody is in `population`.
    `key_id` names the secret the members' hashes are keyed with; NULL before the first enrolment.
    """

    __tablename__ = "budget_block"
    __table_args__ = (
        sa.ForeignKeyConstraint(["population_id"], ["population.id"], name="budget_block_of"),
        sa.CheckConstraint("length(name) > 0", name="budget_block_named"),
        sa.CheckConstraint("clients BETWEEN 1 AND 1000000000", name="budget_block_clients"),
        sa.CheckConstraint("members >= 0 AND opened_seq >= 2", name="budget_block_counts"),
        sa.CheckConstraint("(members = 0) = (key_id IS NULL)", name="budget_block_keyed"),
        sa.CheckConstraint(_NOT_NEGATIVE, name="budget_block_not_negative"),
    )

    population_id: str = _population()
    name: str = _column(sa.String(100), primary_key=True)
    clients: int = _column(sa.BigInteger)
    members: int = _column(sa.BigInteger)
    key_id: str | None = _column(sa.String(16), nullable=True)
    charged: tuple[int, ...] = _column(Vector)
    reserved: tuple[int, ...] = _column(Vector)
    opened_seq: int = _column(sa.BigInteger)


class BlockMember(SQLModel, table=True):
    """That the person behind a keyed hash lies in this block, and so in no other."""

    __tablename__ = "block_member"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["population_id", "block"],
            ["budget_block.population_id", "budget_block.name"],
            name="block_member_of",
        ),
        sa.CheckConstraint("length(hash) = 32", name="block_member_hash"),
        sa.Index("block_member_block", "population_id", "block", "hash"),
    )

    population_id: str = _population()
    hash: bytes = _column(sa.LargeBinary, primary_key=True)
    block: str = _column(sa.String(100))


class ProjectQuota(SQLModel, table=True):
    """One project's spending within a population, and the share when the owner set one."""

    __tablename__ = "project_quota"
    __table_args__ = (
        sa.ForeignKeyConstraint(["population_id"], ["population.id"], name="project_quota_of"),
        sa.CheckConstraint(
            "epsilon_nano IS NULL OR epsilon_nano > 0", name="project_quota_epsilon"
        ),
        sa.CheckConstraint(
            "(epsilon_nano IS NULL) = (weights IS NULL) AND (weights IS NULL) = (limits IS NULL)",
            name="project_quota_terms",
        ),
        sa.CheckConstraint("length(project) > 0", name="project_quota_named"),
        sa.CheckConstraint(_NOT_NEGATIVE, name="project_quota_not_negative"),
    )

    population_id: str = _population()
    project: str = _column(sa.String(100), primary_key=True)
    epsilon_nano: int | None = _column(sa.BigInteger, nullable=True)
    weights: tuple[int, ...] | None = _column(Vector, nullable=True)
    limits: tuple[int, ...] | None = _column(Vector, nullable=True)
    charged: tuple[int, ...] = _column(Vector)
    reserved: tuple[int, ...] = _column(Vector)


BLOCK: Final = SQLModel.metadata.tables["budget_block"]
MEMBER: Final = SQLModel.metadata.tables["block_member"]
PROJECT_QUOTA: Final = SQLModel.metadata.tables["project_quota"]

# Nobody leaves a block, and a block stays the people it was opened for.
protect(MEMBER, Guard("block_member"))
protect(BLOCK, Guard("budget_block", ("population_id", "name", "clients", "opened_seq")))
protect(PROJECT_QUOTA, Guard("project_quota", ("population_id", "project")))
