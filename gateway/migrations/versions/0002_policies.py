"""Policy revisions and decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _policy_revision()
    _decision()


def downgrade() -> None:
    op.drop_table("decision")
    op.drop_table("policy_revision")


def _policy_revision() -> None:
    op.create_table(
        "policy_revision",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("dataset_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("tests", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("activated_at", sa.BigInteger(), nullable=True),
        sa.Column("activated_by", sa.String(length=64), nullable=True),
        sa.Column("superseded_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(state = 'draft') = (activated_at IS NULL)", name="ck_policy_revision_activated"
        ),
        sa.CheckConstraint(
            "state IN ('draft', 'active', 'superseded')", name="ck_policy_revision_state"
        ),
        sa.CheckConstraint("number >= 1", name="ck_policy_revision_number"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dataset_id", "number", name="uq_policy_revision_number"),
    )
    op.create_index(
        "ix_policy_revision_dataset_id", "policy_revision", ["dataset_id"], unique=False
    )
    op.create_index(
        "uq_policy_revision_active",
        "policy_revision",
        ["dataset_id"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )


def _decision() -> None:
    op.create_table(
        "decision",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("dataset_id", sa.String(length=64), nullable=False),
        sa.Column("subject_id", sa.String(length=64), nullable=False),
        sa.Column("revision_id", sa.String(length=64), nullable=True),
        sa.Column("revision_number", sa.Integer(), nullable=True),
        sa.Column("revision_digest", sa.String(length=64), nullable=True),
        sa.Column("library_digest", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("fault", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("input_digest", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("engine", sa.String(length=32), nullable=False),
        sa.Column("engine_version", sa.String(length=64), nullable=False),
        sa.Column("latency_us", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("outcome = 'deny' OR fault IS NULL", name="ck_decision_fault_denies"),
        sa.CheckConstraint(
            "outcome IN ('allow', 'needs_approval', 'deny')", name="ck_decision_outcome"
        ),
        sa.CheckConstraint("latency_us >= 0", name="ck_decision_latency"),
        sa.ForeignKeyConstraint(
            ["revision_id"],
            ["policy_revision.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_decision_created_at", "decision", ["created_at"], unique=False)
    op.create_index("ix_decision_dataset_id", "decision", ["dataset_id"], unique=False)
    op.create_index("ix_decision_digest", "decision", ["digest"], unique=False)
    op.create_index("ix_decision_job_id", "decision", ["job_id"], unique=False)
    op.create_index("ix_decision_revision_id", "decision", ["revision_id"], unique=False)
    op.create_index("ix_decision_subject_id", "decision", ["subject_id"], unique=False)
