"""A key is found by its job, so that a new job need not be looked for among all keys.

A key's foreign key is checked at the commit, because the key comes before its job. SQLite settles
such a debt when the job is inserted, and without an index reads every key ever taken to do so.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("idempotency_job", "idempotency", ["job_id"])


def downgrade() -> None:
    op.drop_index("idempotency_job", table_name="idempotency")
