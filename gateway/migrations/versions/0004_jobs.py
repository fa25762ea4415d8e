"""Data sets, jobs, their events, releases and receipts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _dataset()
    _job()
    _idempotency()
    _job_approval()
    _job_event()
    _job_release()
    _outbox()
    _receipt()


def downgrade() -> None:
    op.drop_table("receipt")
    op.drop_table("outbox")
    op.drop_table("job_release")
    op.drop_table("job_event")
    op.drop_table("job_approval")
    op.drop_table("idempotency")
    op.drop_table("job")
    op.drop_table("dataset")


def _dataset() -> None:
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("population_id", sa.String(length=100), nullable=False),
        sa.Column("owner_id", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("clients", sa.BigInteger(), nullable=False),
        sa.Column("examples", sa.BigInteger(), nullable=False),
        sa.Column("assets", sa.JSON(), nullable=False),
        sa.Column("feature_shape", sa.JSON(), nullable=False),
        sa.Column("feature_dtype", sa.String(length=20), nullable=False),
        sa.Column("feature_scale", sa.Double(), nullable=False),
        sa.Column("label_dtype", sa.String(length=20), nullable=False),
        sa.Column("classes", sa.Integer(), nullable=True),
        sa.Column("store_path", sa.String(), nullable=False),
        sa.Column("test_store_path", sa.String(), nullable=True),
        sa.Column("test_examples", sa.BigInteger(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(test_store_path IS NULL) = (test_examples = 0)", name="dataset_test_store_if_any"
        ),
        sa.CheckConstraint("classes IS NULL OR classes >= 2", name="dataset_two_classes"),
        sa.CheckConstraint("clients >= 1", name="dataset_has_clients"),
        sa.CheckConstraint("examples >= 0", name="dataset_examples_counted"),
        sa.CheckConstraint("length(digest) = 64", name="dataset_digest_is_sha256"),
        sa.CheckConstraint("test_examples >= 0", name="dataset_test_examples_counted"),
        sa.CheckConstraint("version >= 1", name="dataset_version_from_one"),
        sa.ForeignKeyConstraint(
            ["population_id"],
            ["population.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("owner_id", "name", "version", name="dataset_version_once"),
    )
    op.create_index("ix_dataset_population_id", "dataset", ["population_id"], unique=False)


def _job() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("population_id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("dataset_version", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("researcher_id", sa.String(), nullable=False),
        sa.Column("researcher_email", sa.String(), nullable=False),
        sa.Column("researcher_role", sa.String(), nullable=False),
        sa.Column("researcher_organisation", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.String(), nullable=False),
        sa.Column("population_clients", sa.BigInteger(), nullable=False),
        sa.Column("clients_per_round", sa.BigInteger(), nullable=False),
        sa.Column("noise_multiplier", sa.Float(), nullable=False),
        sa.Column("mechanism_digest", sa.String(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("rounds_charged", sa.Integer(), nullable=False),
        sa.Column("rounds_published", sa.Integer(), nullable=False),
        sa.Column("epsilon_nano", sa.BigInteger(), nullable=False),
        sa.Column("delta", sa.String(), nullable=False),
        sa.Column("policy_revision_id", sa.String(), nullable=False),
        sa.Column("policy_revision", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.String(), nullable=False),
        sa.Column("decision_digest", sa.String(), nullable=False),
        sa.Column("obligations", sa.Text(), nullable=False),
        sa.Column("approvals", sa.Text(), nullable=False),
        sa.Column("approve_before", sa.BigInteger(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("failure", sa.String(), nullable=True),
        sa.Column("failure_detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(status = 'running') = (lease_expires_at IS NOT NULL)", name="job_lease"
        ),
        sa.CheckConstraint("kind IN ('train', 'evaluate', 'query')", name="job_kind"),
        sa.CheckConstraint(
            "status IN ('submitted', 'awaiting_approval', 'reserved', 'queued', 'running', "
            "'denied', 'completed', 'failed', 'cancelled', 'expired', 'stopped_by_policy', "
            "'frozen')",
            name="job_status",
        ),
        sa.CheckConstraint(
            "0 <= rounds_published AND rounds_published <= rounds_charged", name="job_published"
        ),
        sa.CheckConstraint(
            "1 <= clients_per_round AND clients_per_round <= population_clients", name="job_cohort"
        ),
        sa.CheckConstraint("epsilon_nano >= 0", name="job_epsilon"),
        sa.CheckConstraint("fence >= 0 AND attempt >= 0", name="job_fence"),
        sa.CheckConstraint("noise_multiplier > 0", name="job_noise"),
        sa.CheckConstraint("rounds >= 1", name="job_rounds"),
        sa.CheckConstraint("rounds_published <= rounds", name="job_published_in_range"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["dataset.id"],
        ),
        sa.ForeignKeyConstraint(
            ["decision_id"],
            ["decision.id"],
        ),
        sa.ForeignKeyConstraint(
            ["population_id"],
            ["population.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("job_by_population", "job", ["population_id", "created_at"], unique=False)
    op.create_index(
        "job_by_researcher", "job", ["researcher_id", "population_id", "created_at"], unique=False
    )
    op.create_index("job_by_status", "job", ["status", "updated_at"], unique=False)


def _idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("principal_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], initially="DEFERRED", deferrable=True),
        sa.PrimaryKeyConstraint("principal_id", "key"),
    )


def _job_approval() -> None:
    op.create_table(
        "job_approval",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("approver_id", sa.String(), nullable=False),
        sa.Column("approver_role", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("decision IN ('approve', 'reject')", name="job_approval_decision"),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job_id", "approver_id"),
    )


def _job_event() -> None:
    op.create_table(
        "job_event",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.CheckConstraint("seq >= 1", name="job_event_seq"),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job_id", "seq"),
    )


def _job_release() -> None:
    op.create_table(
        "job_release",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=True),
        sa.Column("server_state", sa.LargeBinary(), nullable=True),
        sa.Column("metrics", sa.Text(), nullable=True),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("round >= 1", name="job_release_round"),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job_id", "round"),
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index(
        "outbox_unsent",
        "outbox",
        ["created_at"],
        unique=False,
        sqlite_where=sa.text("sent_at IS NULL"),
        postgresql_where=sa.text("sent_at IS NULL"),
    )


def _receipt() -> None:
    op.create_table(
        "receipt",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job_id"),
    )
