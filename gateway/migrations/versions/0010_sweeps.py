"""Sweeps: which jobs were admitted together."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from gateway.migrations.rebuild import execute
from kit.guards import Guard

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

GUARDS: Final = (Guard("sweep"), Guard("sweep_member"))


def upgrade() -> None:
    op.create_table(
        "sweep",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("researcher_id", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("researcher_id", "key", name="sweep_key"),
        sa.CheckConstraint("length(request_hash) = 64", name="sweep_hash"),
        sa.CheckConstraint("key IS NULL OR length(key) BETWEEN 1 AND 200", name="sweep_key_length"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "sweep_member",
        sa.Column("sweep_id", sa.String(length=100), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"]),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"]),
        sa.CheckConstraint("place >= 1", name="sweep_member_place"),
        sa.PrimaryKeyConstraint("sweep_id", "place"),
        sa.UniqueConstraint("job_id"),
    )
    for guard in GUARDS:
        execute(guard.create(op.get_bind().dialect.name))


def downgrade() -> None:
    for guard in GUARDS:
        execute(guard.drop(op.get_bind().dialect.name))
    op.drop_table("sweep_member")
    op.drop_table("sweep")
