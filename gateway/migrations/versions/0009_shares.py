"""Blocks of people and their members, shares of projects, projects, proposals for two people."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from gateway.migrations.rebuild import execute
from kit.guards import Guard

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_RESERVATION: Final = (
    "job_id",
    "population_id",
    "researcher_id",
    "mechanism",
    "mechanism_digest",
    "per_round",
    "whole",
    "rounds_reserved",
)
BEFORE: Final = Guard("reservation", _RESERVATION)
AFTER: Final = Guard("reservation", (*_RESERVATION[:3], "project", "block", *_RESERVATION[3:]))
GUARDS: Final = (
    Guard("block_member"),
    Guard("budget_block", ("population_id", "name", "clients", "opened_seq")),
    Guard("project_quota", ("population_id", "project")),
    Guard("project", ("name", "organisation", "created_by", "created_at")),
    Guard(
        "proposal",
        ("id", "kind", "population_id", "owner_id", "organisation", "body", "reason",
         "proposed_by", "created_at", "expires_at"),
    ),
)  # fmt: skip
_NOT_NEGATIVE: Final = "charged NOT LIKE '%-%' AND reserved NOT LIKE '%-%'"


def upgrade() -> None:
    op.add_column("population", _column("second_person", sa.Boolean(), server_default=sa.false()))
    op.add_column("population", _column("blocks", sa.BigInteger(), server_default="0"))
    dialect = op.get_bind().dialect.name
    execute(BEFORE.drop(dialect))
    for name in ("project", "block"):
        op.add_column("reservation", sa.Column(name, sa.String(length=100), nullable=True))
    execute(AFTER.create(dialect))
    _blocks()
    _projects()
    _proposals()
    for guard in GUARDS:
        execute(guard.create(dialect))


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    for guard in GUARDS:
        execute(guard.drop(dialect))
    op.drop_index("ix_proposal_population_id", table_name="proposal")
    op.drop_table("proposal")
    op.drop_table("project_member")
    op.drop_table("project")
    op.drop_table("project_quota")
    op.drop_index("block_member_block", table_name="block_member")
    op.drop_table("block_member")
    op.drop_table("budget_block")
    execute(AFTER.drop(dialect))
    for name in ("block", "project"):
        op.drop_column("reservation", name)
    execute(BEFORE.create(dialect))
    op.drop_column("population", "blocks")
    op.drop_column("population", "second_person")


def _column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


def _text(name: str, length: int) -> sa.Column[Any]:
    return _column(name, sa.String(length=length))


def _blocks() -> None:
    op.create_table(
        "budget_block",
        _text("population_id", 64),
        _text("name", 100),
        _column("clients", sa.BigInteger()),
        _column("members", sa.BigInteger()),
        sa.Column("key_id", sa.String(length=16), nullable=True),
        _column("charged", sa.Text()),
        _column("reserved", sa.Text()),
        _column("opened_seq", sa.BigInteger()),
        sa.ForeignKeyConstraint(["population_id"], ["population.id"], name="budget_block_of"),
        sa.CheckConstraint("length(name) > 0", name="budget_block_named"),
        sa.CheckConstraint("clients BETWEEN 1 AND 1000000000", name="budget_block_clients"),
        sa.CheckConstraint("members >= 0 AND opened_seq >= 2", name="budget_block_counts"),
        sa.CheckConstraint("(members = 0) = (key_id IS NULL)", name="budget_block_keyed"),
        sa.CheckConstraint(_NOT_NEGATIVE, name="budget_block_not_negative"),
        sa.PrimaryKeyConstraint("population_id", "name"),
    )
    op.create_table(
        "block_member",
        _text("population_id", 64),
        _column("hash", sa.LargeBinary()),
        _text("block", 100),
        sa.ForeignKeyConstraint(
            ["population_id", "block"],
            ["budget_block.population_id", "budget_block.name"],
            name="block_member_of",
        ),
        sa.CheckConstraint("length(hash) = 32", name="block_member_hash"),
        sa.PrimaryKeyConstraint("population_id", "hash"),
    )
    op.create_index("block_member_block", "block_member", ["population_id", "block", "hash"])


def _projects() -> None:
    op.create_table(
        "project_quota",
        _text("population_id", 64),
        _text("project", 100),
        sa.Column("epsilon_nano", sa.BigInteger(), nullable=True),
        sa.Column("weights", sa.Text(), nullable=True),
        sa.Column("limits", sa.Text(), nullable=True),
        _column("charged", sa.Text()),
        _column("reserved", sa.Text()),
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
        sa.PrimaryKeyConstraint("population_id", "project"),
    )
    op.create_table(
        "project",
        _text("name", 100),
        _text("title", 200),
        _text("organisation", 200),
        _text("created_by", 100),
        _column("created_at", sa.BigInteger()),
        sa.CheckConstraint("length(name) > 0 AND length(organisation) > 0", name="project_named"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "project_member",
        _text("project", 100),
        _text("user_id", 100),
        _text("added_by", 100),
        _column("added_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(["project"], ["project.name"]),
        sa.PrimaryKeyConstraint("project", "user_id"),
    )


def _proposals() -> None:
    op.create_table(
        "proposal",
        _text("id", 100),
        _text("kind", 40),
        _text("population_id", 64),
        _text("owner_id", 100),
        _text("organisation", 200),
        _column("body", sa.String()),
        _text("reason", 200),
        _text("proposed_by", 100),
        _column("created_at", sa.BigInteger()),
        _column("expires_at", sa.BigInteger()),
        _text("state", 20),
        sa.Column("decided_by", sa.String(length=100), nullable=True),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        _text("note", 2000),
        sa.ForeignKeyConstraint(["population_id"], ["population.id"]),
        sa.CheckConstraint("length(kind) > 0 AND length(reason) > 0", name="proposal_said"),
        sa.CheckConstraint(
            "state IN ('open', 'approved', 'rejected', 'withdrawn')", name="proposal_state"
        ),
        sa.CheckConstraint(
            "(state = 'open') = (decided_by IS NULL)"
            " AND (decided_by IS NULL) = (decided_at IS NULL)",
            name="proposal_decided",
        ),
        sa.CheckConstraint(
            "state <> 'approved' OR (decided_by <> proposed_by AND decided_at <= expires_at)",
            name="proposal_two_people",
        ),
        sa.CheckConstraint(
            "state <> 'withdrawn' OR decided_by = proposed_by", name="proposal_withdrawn"
        ),
        sa.CheckConstraint("expires_at > created_at", name="proposal_window"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_proposal_population_id", "proposal", ["population_id"])
