"""The Rego library's texts by digest, so that old decisions can be asked again."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from gateway.migrations.rebuild import execute
from kit.guards import Guard

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

GUARD: Final = Guard("policy_library")


def upgrade() -> None:
    op.create_table(
        "policy_library",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("texts", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name="ck_policy_library_digest"),
        sa.PrimaryKeyConstraint("digest"),
    )
    execute(GUARD.create(op.get_bind().dialect.name))


def downgrade() -> None:
    execute(GUARD.drop(op.get_bind().dialect.name))
    op.drop_table("policy_library")
