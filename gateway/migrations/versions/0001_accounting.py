"""Budgets, reservations and the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from accounting.guards import append_only_statements, drop_append_only_statements

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _population()
    _quota()
    _reservation()
    _ledger_entry()
    for statement in append_only_statements(op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for statement in drop_append_only_statements(op.get_bind().dialect.name):
        op.execute(statement)
    op.drop_table("ledger_entry")
    op.drop_table("reservation")
    op.drop_table("quota")
    op.drop_table("population")


def _population() -> None:
    op.create_table(
        "population",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("privacy_unit", sa.String(length=200), nullable=False),
        sa.Column("clients", sa.BigInteger(), nullable=False),
        sa.Column("owner_id", sa.String(length=64), nullable=False),
        sa.Column("epsilon_nano", sa.BigInteger(), nullable=False),
        sa.Column("delta", sa.String(length=32), nullable=False),
        sa.Column("weights", sa.Text(), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("charged", sa.Text(), nullable=False),
        sa.Column("reserved", sa.Text(), nullable=False),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), nullable=False),
        sa.Column("head_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("clients BETWEEN 1 AND 1000000000", name="population_clients"),
        sa.CheckConstraint("epsilon_nano > 0", name="population_epsilon"),
        sa.CheckConstraint("length(head_hash) = 64", name="population_head"),
        sa.CheckConstraint("version >= 1 AND head_seq >= 1", name="population_version"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_population_owner_id", "population", ["owner_id"], unique=False)


def _quota() -> None:
    op.create_table(
        "quota",
        sa.Column("population_id", sa.String(length=64), nullable=False),
        sa.Column("researcher_id", sa.String(length=64), nullable=False),
        sa.Column("epsilon_nano", sa.BigInteger(), nullable=True),
        sa.Column("weights", sa.Text(), nullable=True),
        sa.Column("limits", sa.Text(), nullable=True),
        sa.Column("charged", sa.Text(), nullable=False),
        sa.Column("reserved", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(epsilon_nano IS NULL) = (weights IS NULL) AND (weights IS NULL) = (limits IS NULL)",
            name="quota_terms",
        ),
        sa.CheckConstraint("epsilon_nano IS NULL OR epsilon_nano > 0", name="quota_epsilon"),
        sa.ForeignKeyConstraint(
            ["population_id"],
            ["population.id"],
        ),
        sa.PrimaryKeyConstraint("population_id", "researcher_id"),
    )


def _reservation() -> None:
    op.create_table(
        "reservation",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("population_id", sa.String(length=64), nullable=False),
        sa.Column("researcher_id", sa.String(length=64), nullable=False),
        sa.Column("mechanism", sa.Text(), nullable=False),
        sa.Column("mechanism_digest", sa.String(length=64), nullable=False),
        sa.Column("per_round", sa.Text(), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("rounds_reserved", sa.BigInteger(), nullable=False),
        sa.Column("rounds_charged", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("fence >= 0", name="reservation_fence"),
        sa.CheckConstraint("length(mechanism_digest) = 64", name="reservation_digest"),
        sa.CheckConstraint(
            "rounds_charged BETWEEN 0 AND rounds_reserved", name="reservation_charged"
        ),
        sa.CheckConstraint("rounds_reserved >= 1", name="reservation_rounds"),
        sa.ForeignKeyConstraint(["population_id"], ["population.id"], name="reservation_of"),
        sa.PrimaryKeyConstraint("job_id"),
    )


def _ledger_entry() -> None:
    op.create_table(
        "ledger_entry",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("population_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("researcher_id", sa.String(length=64), nullable=True),
        sa.Column("actor_id", sa.String(length=64), nullable=True),
        sa.Column("round_first", sa.BigInteger(), nullable=True),
        sa.Column("rounds", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.BigInteger(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("leaf", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint(
            "kind <> 'charge' OR (job_id IS NOT NULL AND round_first >= 1 AND rounds >= 1 AND"
            " attempt >= 1 AND fence >= 0)",
            name="ledger_entry_charge",
        ),
        sa.CheckConstraint("kind = 'charge' OR round_first IS NULL", name="ledger_entry_rounds"),
        sa.CheckConstraint(
            "kind IN ('open', 'grant', 'reserve', 'charge', 'void', 'freeze', 'unfreeze', "
            "'quota', 'note', 'deny')",
            name="ledger_entry_kind",
        ),
        sa.CheckConstraint(
            "length(hash) = 64 AND length(prev_hash) = 64", name="ledger_entry_hash"
        ),
        sa.CheckConstraint("seq >= 1", name="ledger_entry_first"),
        sa.ForeignKeyConstraint(["population_id"], ["population.id"], name="ledger_entry_of"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "attempt", "round_first", name="ledger_entry_attempt"),
        sa.UniqueConstraint("population_id", "prev_hash", name="ledger_entry_no_fork"),
        sa.UniqueConstraint("population_id", "seq", name="ledger_entry_seq"),
    )
    op.create_index("ledger_entry_job", "ledger_entry", ["job_id"], unique=False)
    op.create_index("ledger_entry_researcher", "ledger_entry", ["researcher_id"], unique=False)
    op.create_index("ledger_entry_time", "ledger_entry", ["population_id", "at"], unique=False)
