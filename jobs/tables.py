"""Jobs as rows: the truth that a message in the broker only hints at.

Every invariant SQL can hold is a constraint here, because `table=True` classes do not validate:
a job's counters cannot contradict each other, a round is published once, an idempotency key
belongs to one request for ever, an event has its own place. Times are whole microseconds UTC.
This module must never hold behaviour.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    false,
    text,
)
from sqlmodel import Field, SQLModel

# Imported for the tables that foreign keys below name.
import accounting.tables_scope  # noqa: F401
import jobs.tables_datasets
import jobs.tables_people
import jobs.tables_sweeps
import jobs.tables_weights  # noqa: F401
import policies.tables  # noqa: F401
from kit.guards import Guard, protect

LIVE_STATES = ("awaiting_approval", "reserved", "queued", "running")
FINAL_STATES = (
    "denied",
    "completed",
    "failed",
    "cancelled",
    "expired",
    "stopped_by_policy",
    "frozen",
)
STATES = ("submitted", *LIVE_STATES, *FINAL_STATES)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    """SQL condition that `column` is one of `values`."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Job(SQLModel, table=True):
    """One admitted request and how far it has come.

    `request` is the canonical text of the `JobRequest`; `epsilon_nano` is the stand-alone ε at the
    budget's δ, rounded up. `fence` rises with every claim, so a worker that lost its lease can
    charge and publish nothing. `dataset_version`, `policy_revision_id` and `decision_id` say what
    the admission was decided on. `ordinal` counts the researcher's jobs on this population from 1
    without gaps, given under the population's lock. `obligations` and `approvals` are canonical
    JSON of what that decision demands; approvals count only until `approve_before`. `release_at` is
    the moment, by the database's clock, from which outputs leave where the owner demands a delay.
    """

    __tablename__ = "job"
    __table_args__ = (
        CheckConstraint(_one_of("status", STATES), name="job_status"),
        CheckConstraint(_one_of("kind", ("train", "evaluate", "query")), name="job_kind"),
        CheckConstraint("rounds >= 1", name="job_rounds"),
        CheckConstraint(
            "0 <= rounds_published AND rounds_published <= rounds_charged", name="job_published"
        ),
        CheckConstraint("rounds_published <= rounds", name="job_published_in_range"),
        CheckConstraint(
            "1 <= clients_per_round AND clients_per_round <= population_clients",
            name="job_cohort",
        ),
        CheckConstraint("noise_multiplier > 0", name="job_noise"),
        CheckConstraint("epsilon_nano >= 0", name="job_epsilon"),
        CheckConstraint("fence >= 0 AND attempt >= 0", name="job_fence"),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="job_lease"),
        CheckConstraint("status <> 'running' OR worker IS NOT NULL", name="job_worker"),
        CheckConstraint(
            f"({_one_of('status', FINAL_STATES)}) = (finished_at IS NOT NULL)", name="job_finished"
        ),
        CheckConstraint(
            "status <> 'awaiting_approval' OR approve_before IS NOT NULL", name="job_approval_due"
        ),
        CheckConstraint("(status = 'failed') = (failure IS NOT NULL)", name="job_failure"),
        CheckConstraint("dataset_version >= 1 AND policy_revision >= 1", name="job_versions"),
        CheckConstraint(
            "length(request_digest) = 64 AND length(mechanism_digest) = 64"
            " AND length(decision_digest) = 64",
            name="job_digests",
        ),
        # The last ordinal counts a researcher's jobs on a population; every quote asks for it.
        Index("job_by_researcher", "researcher_id", "population_id", "ordinal", unique=True),
        Index("job_by_status", "status", "updated_at"),
        Index("job_by_population", "population_id", "created_at"),
    )

    id: str = Field(primary_key=True)
    population_id: str = Field(foreign_key="population.id")
    dataset_id: str = Field(foreign_key="dataset.id")
    dataset_version: int
    owner_id: str
    researcher_id: str
    researcher_email: str
    researcher_role: str
    researcher_organisation: str
    ordinal: int = Field(sa_column_kwargs={"server_default": "0"})
    status: str
    kind: str
    purpose: str
    request: str = Field(sa_type=Text)
    request_digest: str
    population_clients: int = Field(sa_type=BigInteger)
    clients_per_round: int = Field(sa_type=BigInteger)
    noise_multiplier: float
    mechanism_digest: str
    rounds: int
    rounds_charged: int = 0
    rounds_published: int = 0
    epsilon_nano: int = Field(sa_type=BigInteger)
    delta: str
    policy_revision_id: str = Field(foreign_key="policy_revision.id")
    policy_revision: int
    decision_id: str = Field(foreign_key="decision.id")
    decision_digest: str
    obligations: str = Field(default="{}", sa_type=Text)
    approvals: str = Field(default="[]", sa_type=Text)
    approve_before: int | None = Field(default=None, sa_type=BigInteger)
    fence: int = Field(default=0, sa_type=BigInteger)
    attempt: int = 0
    worker: str | None = None
    lease_expires_at: int | None = Field(default=None, sa_type=BigInteger)
    cancel_requested_at: int | None = Field(default=None, sa_type=BigInteger)
    failure: str | None = None
    failure_detail: str | None = Field(default=None, sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)
    finished_at: int | None = Field(default=None, sa_type=BigInteger)
    release_at: int | None = Field(default=None, sa_type=BigInteger)


class JobEvent(SQLModel, table=True):
    """One thing that happened to a job, in order; `body` is JSON fit for its researcher to see."""

    __tablename__ = "job_event"
    __table_args__ = (CheckConstraint("seq >= 1", name="job_event_seq"),)

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    seq: int = Field(primary_key=True)
    kind: str
    at: int = Field(sa_type=BigInteger)
    body: str = Field(default="{}", sa_type=Text)


class JobApproval(SQLModel, table=True):
    """What one person decided about a job that awaits approval."""

    __tablename__ = "job_approval"
    __table_args__ = (
        CheckConstraint(_one_of("decision", ("approve", "reject")), name="job_approval_decision"),
        CheckConstraint(
            _one_of("approver_role", ("admin", "owner", "auditor")), name="job_approval_role"
        ),
    )

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    approver_id: str = Field(primary_key=True)
    approver_role: str
    decision: str
    note: str = Field(default="", sa_type=Text)
    at: int = Field(sa_type=BigInteger)


class Idempotency(SQLModel, table=True):
    """A researcher's key and the one request and job it stands for, kept for ever."""

    __tablename__ = "idempotency"
    __table_args__ = (
        CheckConstraint("length(request_hash) = 64", name="idempotency_hash"),
        CheckConstraint("length(key) BETWEEN 1 AND 200", name="idempotency_key"),
        # SQLite looks here whenever a job comes in under a key taken before it; see `job_id`.
        Index("idempotency_job", "job_id"),
    )

    principal_id: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_hash: str
    # Deferred: the key is taken before its job is written, so that equal posts wait for the first.
    job_id: str = Field(
        sa_column=Column(
            String, ForeignKey("job.id", deferrable=True, initially="DEFERRED"), nullable=False
        )
    )
    created_at: int = Field(sa_type=BigInteger)


class Outbox(SQLModel, table=True):
    """A hint that must reach the broker some time after its transaction committed."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index(
            "outbox_unsent",
            "created_at",
            sqlite_where=text("sent_at IS NULL"),
            postgresql_where=text("sent_at IS NULL"),
        ),
    )

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    created_at: int = Field(sa_type=BigInteger)
    sent_at: int | None = Field(default=None, sa_type=BigInteger)


class JobRelease(SQLModel, table=True):
    """The noisy model after a round: published once, never computed again.

    Rounds that ended within a moment are published as one and have one row, that of the last.
    `weights` and `server_state` are files of `kit.tensors`; both may be dropped from older
    rounds, `digest` (SHA-256 of `weights`) stays. `metrics` is canonical JSON over public data.
    """

    __tablename__ = "job_release"
    __table_args__ = (
        CheckConstraint("round >= 1", name="job_release_round"),
        CheckConstraint("attempt >= 1 AND fence >= 1", name="job_release_fence"),
        CheckConstraint("length(digest) = 64", name="job_release_digest"),
        CheckConstraint("weights IS NOT NULL OR server_state IS NULL", name="job_release_dropped"),
    )

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    round: int = Field(primary_key=True)
    attempt: int
    fence: int = Field(sa_type=BigInteger)
    digest: str
    weights: bytes | None = Field(default=None, sa_type=LargeBinary)
    server_state: bytes | None = Field(default=None, sa_type=LargeBinary)
    metrics: str | None = Field(default=None, sa_type=Text)
    published_at: int = Field(sa_type=BigInteger)


class Receipt(SQLModel, table=True):
    """What was guaranteed, written once when a job ends; `body` is JSON."""

    __tablename__ = "receipt"
    __table_args__ = (CheckConstraint("length(digest) = 64", name="receipt_digest"),)

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    body: str = Field(sa_type=Text)
    digest: str
    created_at: int = Field(sa_type=BigInteger)


class WorkerPresence(SQLModel, table=True):
    """A worker process and when the database last heard of it, by the database's own clock."""

    __tablename__ = "worker_presence"

    worker: str = Field(primary_key=True)
    started_at: int = Field(sa_type=BigInteger)
    seen_at: int = Field(sa_type=BigInteger)
    insecure: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


# What was asked for and decided, and everything people were shown, stays as it was.
protect(
    Job.__table__,  # type: ignore[attr-defined]
    Guard(
        "job",
        (
            "id",
            "population_id",
            "dataset_id",
            "dataset_version",
            "owner_id",
            "researcher_id",
            "request",
            "request_digest",
            "population_clients",
            "clients_per_round",
            "noise_multiplier",
            "mechanism_digest",
            "rounds",
            "epsilon_nano",
            "delta",
            "policy_revision_id",
            "policy_revision",
            "decision_id",
            "decision_digest",
            "approvals",
            "created_at",
        ),
    ),
)
protect(JobEvent.__table__, Guard("job_event"))  # type: ignore[attr-defined]
protect(JobApproval.__table__, Guard("job_approval"))  # type: ignore[attr-defined]
protect(
    JobRelease.__table__,  # type: ignore[attr-defined]
    Guard("job_release", ("job_id", "round", "attempt", "fence", "digest", "published_at")),
)
protect(Receipt.__table__, Guard("receipt"))  # type: ignore[attr-defined]
