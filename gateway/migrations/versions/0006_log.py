"""The Merkle log: places, subtrees, checkpoints, keys. Entries written before it are integrated by
the running gateway, oldest first; this migration moves no row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from accounting.guards import append_only_statements, drop_append_only_statements
from accounting.tables import LOG_TABLES

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _tree()
    _checkpoints()
    for table in LOG_TABLES:
        for statement in append_only_statements(op.get_bind().dialect.name, table):
            op.execute(statement)


def downgrade() -> None:
    for table in reversed(LOG_TABLES):
        for statement in drop_append_only_statements(op.get_bind().dialect.name, table):
            op.execute(statement)
        op.drop_table(table)


def _tree() -> None:
    op.create_table(
        "log_leaf",
        sa.Column("place", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("population_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("place >= 0", name="log_leaf_place"),
        sa.ForeignKeyConstraint(
            ["population_id", "seq"],
            ["ledger_entry.population_id", "ledger_entry.seq"],
            name="log_leaf_of",
        ),
        sa.PrimaryKeyConstraint("place"),
        sa.UniqueConstraint("population_id", "seq", name="log_leaf_entry"),
    )
    op.create_table(
        "log_node",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("place", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("level BETWEEN 0 AND 62 AND place >= 0", name="log_node_place"),
        sa.CheckConstraint("length(hash) = 32", name="log_node_hash"),
        sa.PrimaryKeyConstraint("level", "place"),
    )


def _checkpoints() -> None:
    op.create_table(
        "log_checkpoint",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("origin", sa.String(length=200), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("signed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("size >= 1", name="log_checkpoint_size"),
        sa.CheckConstraint("length(root) = 64", name="log_checkpoint_root"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("log_checkpoint_at_size", "log_checkpoint", ["size"], unique=False)
    op.create_table(
        "log_key",
        sa.Column("public", sa.String(length=400), nullable=False),
        sa.Column("first_signed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("public"),
    )
