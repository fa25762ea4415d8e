"""Rows of the policy room: revisions that never change their text, and decisions that never change.

Data sets and jobs live in a higher room, so their ids are plain columns here. This module must hold
no behaviour.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class PolicyRevision(SQLModel, table=True):
    """One numbered text of a data set's policy; at most one per data set is active."""

    __tablename__ = "policy_revision"
    __table_args__ = (
        sa.UniqueConstraint("dataset_id", "number", name="uq_policy_revision_number"),
        sa.CheckConstraint("number >= 1", name="ck_policy_revision_number"),
        sa.CheckConstraint(
            "state IN ('draft', 'active', 'superseded')", name="ck_policy_revision_state"
        ),
        sa.CheckConstraint(
            "(state = 'draft') = (activated_at IS NULL)", name="ck_policy_revision_activated"
        ),
        sa.Index(
            "uq_policy_revision_active",
            "dataset_id",
            unique=True,
            sqlite_where=sa.text("state = 'active'"),
            postgresql_where=sa.text("state = 'active'"),
        ),
    )

    id: str = Field(primary_key=True, max_length=64)
    dataset_id: str = Field(max_length=64, index=True)
    number: int
    source: str = Field(sa_type=sa.Text)
    tests: str = Field(sa_type=sa.Text)
    digest: str = Field(max_length=64)
    state: str = Field(max_length=16)
    reason: str = Field(sa_type=sa.Text)
    author_id: str = Field(max_length=64)
    created_at: int = Field(sa_type=sa.BigInteger)
    activated_at: int | None = Field(default=None, sa_type=sa.BigInteger)
    activated_by: str | None = Field(default=None, max_length=64)
    superseded_at: int | None = Field(default=None, sa_type=sa.BigInteger)


class DecisionRow(SQLModel, table=True):
    """One answered question: the exact input, the verdict, who answered, and how long it took."""

    __tablename__ = "decision"
    __table_args__ = (
        sa.CheckConstraint(
            "outcome IN ('allow', 'needs_approval', 'deny')", name="ck_decision_outcome"
        ),
        sa.CheckConstraint("outcome = 'deny' OR fault IS NULL", name="ck_decision_fault_denies"),
        sa.CheckConstraint("latency_us >= 0", name="ck_decision_latency"),
    )

    id: str = Field(primary_key=True, max_length=64)
    job_id: str | None = Field(default=None, max_length=64, index=True)
    dataset_id: str = Field(max_length=64, index=True)
    subject_id: str = Field(max_length=64, index=True)
    revision_id: str | None = Field(
        default=None, foreign_key="policy_revision.id", max_length=64, index=True
    )
    revision_number: int | None = Field(default=None)
    revision_digest: str | None = Field(default=None, max_length=64)
    library_digest: str = Field(max_length=64)
    outcome: str = Field(max_length=16)
    code: str | None = Field(default=None, max_length=64)
    fault: str | None = Field(default=None, max_length=64)
    detail: str = Field(sa_type=sa.Text)
    verdict: str = Field(sa_type=sa.Text)
    input: str = Field(sa_type=sa.Text)
    input_digest: str = Field(max_length=64)
    digest: str = Field(max_length=64, index=True)
    engine: str = Field(max_length=32)
    engine_version: str = Field(max_length=64)
    latency_us: int = Field(sa_type=sa.BigInteger)
    created_at: int = Field(sa_type=sa.BigInteger, index=True)
