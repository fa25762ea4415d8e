"""Jobs are numbered by researcher and population, so that counting them reads one row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NUMBER = """
UPDATE job SET ordinal = numbered.place FROM (
    SELECT id, row_number() OVER (
        PARTITION BY researcher_id, population_id ORDER BY created_at, id
    ) AS place FROM job
) AS numbered WHERE job.id = numbered.id
"""


def upgrade() -> None:
    op.add_column("job", sa.Column("ordinal", sa.Integer(), nullable=False, server_default="0"))
    op.execute(_NUMBER)
    op.drop_index("job_by_researcher", table_name="job")
    op.create_index(
        "job_by_researcher", "job", ["researcher_id", "population_id", "ordinal"], unique=True
    )


def downgrade() -> None:
    op.drop_index("job_by_researcher", table_name="job")
    op.drop_column("job", "ordinal")
    op.create_index(
        "job_by_researcher", "job", ["researcher_id", "population_id", "created_at"], unique=False
    )
