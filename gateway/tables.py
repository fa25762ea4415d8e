"""Accounts and their tokens as rows; the only tables the front door owns.

Neither a password nor a token is ever stored: the one as an argon2id hash, the other as its
SHA-256. This module must never hold behaviour.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

ROLES = ("admin", "owner", "researcher", "auditor")


class User(SQLModel, table=True):
    """One person or service with one role; `email` is stored in lower case and unique."""

    __tablename__ = "user_account"
    __table_args__ = (
        sa.CheckConstraint(
            "role IN ('admin', 'owner', 'researcher', 'auditor')", name="user_account_role"
        ),
        sa.CheckConstraint("email = lower(email)", name="user_account_email_lower"),
        sa.CheckConstraint("password_hash LIKE '$argon2id$%'", name="user_account_argon2id"),
        sa.CheckConstraint("email LIKE '%_@_%'", name="user_account_email"),
        sa.CheckConstraint("disabled_at IS NULL OR disabled_at > 0", name="user_account_disabled"),
    )

    id: str = Field(primary_key=True, max_length=100)
    email: str = Field(max_length=254, unique=True)
    password_hash: str = Field(max_length=200)
    role: str = Field(max_length=20)
    organisation: str = Field(max_length=200)
    created_at: int = Field(sa_type=sa.BigInteger)
    disabled_at: int | None = Field(default=None, sa_type=sa.BigInteger)


class Token(SQLModel, table=True):
    """A bearer token that somebody holds; the row knows only its SHA-256 (lower-case hex)."""

    __tablename__ = "access_token"
    __table_args__ = (
        sa.CheckConstraint("expires_at > created_at", name="access_token_lifetime"),
        sa.CheckConstraint("length(sha256) = 64", name="access_token_is_sha256"),
    )

    id: str = Field(primary_key=True, max_length=100)
    user_id: str = Field(foreign_key="user_account.id", index=True, max_length=100)
    sha256: str = Field(max_length=64, unique=True)
    label: str = Field(max_length=200)
    created_at: int = Field(sa_type=sa.BigInteger)
    expires_at: int = Field(sa_type=sa.BigInteger)
    revoked_at: int | None = Field(default=None, sa_type=sa.BigInteger)


USER: Final = SQLModel.metadata.tables["user_account"]
TOKEN: Final = SQLModel.metadata.tables["access_token"]
