"""Rows of the policy room: revisions that never change their text, and decisions that never change.

Data sets and jobs live in a higher room, so their ids are plain columns here. This module must hold
no behaviour.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kit.guards import Guard, protect


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
        sa.CheckConstraint(
            "(activated_at IS NULL) = (activated_by IS NULL)", name="ck_policy_revision_actor"
        ),
        sa.CheckConstraint(
            "(state = 'superseded') = (superseded_at IS NOT NULL)",
            name="ck_policy_revision_superseded",
        ),
        sa.CheckConstraint(
            "checked_at IS NOT NULL OR (tested_at IS NULL AND shadowed_at IS NULL)",
            name="ck_policy_revision_checked",
        ),
        sa.CheckConstraint(
            "tested_at IS NOT NULL OR shadowed_at IS NULL", name="ck_policy_revision_tested"
        ),
        sa.CheckConstraint(
            "length(digest) = 64 AND length(source) > 0 AND length(author_id) > 0",
            name="ck_policy_revision_text",
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
    checked_at: int | None = Field(default=None, sa_type=sa.BigInteger)
    tested_at: int | None = Field(default=None, sa_type=sa.BigInteger)
    shadowed_at: int | None = Field(default=None, sa_type=sa.BigInteger)


# The words of the partial index above. A parameter in their place would hide the index from the
# plans that PostgreSQL keeps, and SQLite would prepare the statement anew at each execution.
IS_ACTIVE = SQLModel.metadata.tables["policy_revision"].c.state == sa.literal_column("'active'")


class PolicyLibrary(SQLModel, table=True):
    """The Rego library's modules as canonical JSON by file name, under their SHA-256."""

    __tablename__ = "policy_library"
    __table_args__ = (sa.CheckConstraint("length(digest) = 64", name="ck_policy_library_digest"),)

    digest: str = Field(primary_key=True, max_length=64)
    texts: str = Field(sa_type=sa.Text)
    created_at: int = Field(sa_type=sa.BigInteger)


class DecisionRow(SQLModel, table=True):
    """One answered question: the exact input, the verdict, who answered, and how long it took."""

    __tablename__ = "decision"
    __table_args__ = (
        sa.CheckConstraint(
            "outcome IN ('allow', 'needs_approval', 'deny')", name="ck_decision_outcome"
        ),
        sa.CheckConstraint("outcome = 'deny' OR fault IS NULL", name="ck_decision_fault_denies"),
        sa.CheckConstraint("latency_us >= 0", name="ck_decision_latency"),
        sa.CheckConstraint("(outcome = 'deny') = (code IS NOT NULL)", name="ck_decision_code"),
        sa.CheckConstraint(
            "revision_id IS NULL OR (revision_number >= 1 AND revision_digest IS NOT NULL)",
            name="ck_decision_revision",
        ),
        sa.CheckConstraint(
            "length(digest) = 64 AND length(input_digest) = 64 AND length(library_digest) = 64"
            " AND (revision_digest IS NULL OR length(revision_digest) = 64)",
            name="ck_decision_digests",
        ),
        # Counted whenever somebody reads the metrics; faults are few, decisions are not.
        sa.Index(
            "decision_by_fault",
            "fault",
            sqlite_where=sa.text("fault IS NOT NULL"),
            postgresql_where=sa.text("fault IS NOT NULL"),
        ),
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


protect(
    PolicyRevision.__table__,  # type: ignore[attr-defined]
    Guard(
        "policy_revision",
        (
            "id",
            "dataset_id",
            "number",
            "source",
            "tests",
            "digest",
            "reason",
            "author_id",
            "created_at",
        ),
    ),
)
protect(PolicyLibrary.__table__, Guard("policy_library"))  # type: ignore[attr-defined]
protect(DecisionRow.__table__, Guard("decision"))  # type: ignore[attr-defined]
