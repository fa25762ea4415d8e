"""Constraints that were only in code: no gap in a chain, no change of what was said or decided.

Rows are copied as they are; a row that breaks a constraint stops the migration and leaves
everything as it was.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from accounting.guards import chain_statements, drop_chain_statements
from gateway.migrations.rebuild import Checks, add_clauses, check, drop_clauses, execute
from kit.guards import Guard

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

CHECKS: Final[Checks] = {
    "log_checkpoint": (("log_checkpoint_signed", "length(origin) > 0 AND length(note) > 0"),),
    "policy_revision": (
        ("ck_policy_revision_actor", "(activated_at IS NULL) = (activated_by IS NULL)"),
        (
            "ck_policy_revision_checked",
            "checked_at IS NOT NULL OR (tested_at IS NULL AND shadowed_at IS NULL)",
        ),
        ("ck_policy_revision_superseded", "(state = 'superseded') = (superseded_at IS NOT NULL)"),
        ("ck_policy_revision_tested", "tested_at IS NOT NULL OR shadowed_at IS NULL"),
        (
            "ck_policy_revision_text",
            "length(digest) = 64 AND length(source) > 0 AND length(author_id) > 0",
        ),
    ),
    "population": (
        (
            "population_named",
            "length(id) > 0 AND length(name) > 0 AND length(owner_id) > 0 AND length(delta) > 0",
        ),
        (
            "population_not_negative",
            "charged NOT LIKE '%-%' AND reserved NOT LIKE '%-%' AND weights NOT LIKE '%-%'",
        ),
    ),
    "user_account": (
        ("user_account_disabled", "disabled_at IS NULL OR disabled_at > 0"),
        ("user_account_email", "email LIKE '%_@_%'"),
    ),
    "dataset": (
        ("dataset_named", "length(name) > 0 AND length(owner_id) > 0 AND length(store_path) > 0"),
        ("dataset_scaled_up", "feature_scale > 0"),
    ),
    "decision": (
        ("ck_decision_code", "(outcome = 'deny') = (code IS NOT NULL)"),
        (
            "ck_decision_digests",
            (
                "length(digest) = 64 AND length(input_digest) = 64 AND length(library_digest) = 64"
                " AND (revision_digest IS NULL OR length(revision_digest) = 64)"
            ),
        ),
        (
            "ck_decision_revision",
            "revision_id IS NULL OR (revision_number >= 1 AND revision_digest IS NOT NULL)",
        ),
    ),
    "ledger_entry": (
        (
            "ledger_entry_bearing",
            (
                "kind NOT IN ('reserve', 'charge', 'void')"
                " OR (job_id IS NOT NULL AND researcher_id IS NOT NULL AND rounds IS NOT NULL)"
            ),
        ),
        ("ledger_entry_count", "rounds IS NULL OR rounds >= 0"),
        ("ledger_entry_open", "(seq = 1) = (kind = 'open')"),
    ),
    "quota": (
        ("quota_named", "length(researcher_id) > 0"),
        ("quota_not_negative", "charged NOT LIKE '%-%' AND reserved NOT LIKE '%-%'"),
    ),
    "reservation": (
        ("reservation_named", "length(job_id) > 0 AND length(researcher_id) > 0"),
        ("reservation_not_negative", "per_round NOT LIKE '%-%'"),
        (
            "reservation_whole",
            "NOT whole OR rounds_charged = 0 OR rounds_charged = rounds_reserved",
        ),
    ),
    "job": (
        ("job_approval_due", "status <> 'awaiting_approval' OR approve_before IS NOT NULL"),
        (
            "job_digests",
            (
                "length(request_digest) = 64 AND length(mechanism_digest) = 64"
                " AND length(decision_digest) = 64"
            ),
        ),
        ("job_failure", "(status = 'failed') = (failure IS NOT NULL)"),
        (
            "job_finished",
            (
                "(status IN ('denied', 'completed', 'failed', 'cancelled', 'expired',"
                " 'stopped_by_policy', 'frozen')) = (finished_at IS NOT NULL)"
            ),
        ),
        ("job_versions", "dataset_version >= 1 AND policy_revision >= 1"),
        ("job_worker", "status <> 'running' OR worker IS NOT NULL"),
    ),
    "idempotency": (
        ("idempotency_hash", "length(request_hash) = 64"),
        ("idempotency_key", "length(key) BETWEEN 1 AND 200"),
    ),
    "job_approval": (("job_approval_role", "approver_role IN ('admin', 'owner', 'auditor')"),),
    "job_release": (
        ("job_release_digest", "length(digest) = 64"),
        ("job_release_dropped", "weights IS NOT NULL OR server_state IS NULL"),
        ("job_release_fence", "attempt >= 1 AND fence >= 1"),
    ),
    "receipt": (("receipt_digest", "length(digest) = 64"),),
}
REVISION_OF_JOB: Final = (
    "CONSTRAINT job_policy_revision_id_fkey"
    " FOREIGN KEY(policy_revision_id) REFERENCES policy_revision (id)"
)
GUARDS: Final = (
    Guard("population", ("id", "name", "privacy_unit", "clients", "owner_id", "delta", "weights")),
    Guard("quota", ("population_id", "researcher_id")),
    Guard(
        "reservation",
        ("job_id", "population_id", "researcher_id", "mechanism", "mechanism_digest", "per_round",
         "whole", "rounds_reserved"),
    ),
    Guard(
        "dataset",
        ("id", "name", "population_id", "owner_id", "version", "digest", "clients", "examples",
         "feature_scale", "manifest", "created_at"),
    ),
    Guard(
        "policy_revision",
        ("id", "dataset_id", "number", "source", "tests", "digest", "reason", "author_id",
         "created_at"),
    ),
    Guard("decision"),
    Guard(
        "job",
        ("id", "population_id", "dataset_id", "dataset_version", "owner_id", "researcher_id",
         "request", "request_digest", "population_clients", "clients_per_round",
         "noise_multiplier", "mechanism_digest", "rounds", "epsilon_nano", "delta",
         "policy_revision_id", "policy_revision", "decision_id", "decision_digest",
         "approvals", "created_at"),
    ),
    Guard("job_event"),
    Guard("job_approval"),
    Guard("job_release", ("job_id", "round", "attempt", "fence", "digest", "published_at")),
    Guard("receipt"),
)  # fmt: skip
STAGES: Final = ("checked_at", "tested_at", "shadowed_at")


def upgrade() -> None:
    for column in STAGES:
        op.add_column("policy_revision", sa.Column(column, sa.BigInteger(), nullable=True))
    for table in CHECKS:
        add_clauses(table, _clauses(table))
    dialect = op.get_bind().dialect.name
    execute(chain_statements(dialect))
    for guard in GUARDS:
        execute(guard.create(dialect))


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    for guard in GUARDS:
        execute(guard.drop(dialect))
    execute(drop_chain_statements(dialect))
    for table in CHECKS:
        names = [name for name, _ in CHECKS[table]]
        if table == "job":
            names.append("job_policy_revision_id_fkey")
        drop_clauses(table, _clauses(table), names)
    for column in STAGES:
        op.drop_column("policy_revision", column)


def _clauses(table: str) -> list[str]:
    clauses = [check(name, condition) for name, condition in CHECKS[table]]
    return [*clauses, REVISION_OF_JOB] if table == "job" else clauses
