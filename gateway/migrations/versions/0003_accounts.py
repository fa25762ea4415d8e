"""Accounts and tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _user_account()
    _access_token()


def downgrade() -> None:
    op.drop_table("access_token")
    op.drop_table("user_account")


def _user_account() -> None:
    op.create_table(
        "user_account",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("organisation", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("password_hash LIKE '$argon2id$%'", name="user_account_argon2id"),
        sa.CheckConstraint(
            "role IN ('admin', 'owner', 'researcher', 'auditor')", name="user_account_role"
        ),
        sa.CheckConstraint("email = lower(email)", name="user_account_email_lower"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("email"),
    )


def _access_token() -> None:
    op.create_table(
        "access_token",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("user_id", sa.String(length=100), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("expires_at > created_at", name="access_token_lifetime"),
        sa.CheckConstraint("length(sha256) = 64", name="access_token_is_sha256"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["user_account.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index("ix_access_token_user_id", "access_token", ["user_id"], unique=False)
