"""Weights that researchers upload to begin jobs with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "starting_weights",
        sa.Column("researcher_id", sa.String(length=100), nullable=False),
        sa.Column("id", sa.String(length=68), nullable=False),
        sa.Column("shapes", sa.Text(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(id) = 68", name="starting_weights_id"),
        sa.CheckConstraint("parameters >= 1", name="starting_weights_parameters"),
        sa.CheckConstraint("size_bytes = length(data)", name="starting_weights_bytes"),
        sa.PrimaryKeyConstraint("researcher_id", "id"),
    )


def downgrade() -> None:
    op.drop_table("starting_weights")
