"""The moment from which a job's outputs leave is fixed at its end; faults of decisions are counted.

Jobs that ended under a delay before get the moment that was counted for them until now.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_MICROS_AN_HOUR = 3_600_000_000
_JOB = sa.table(
    "job",
    sa.column("id", sa.String),
    sa.column("obligations", sa.Text),
    sa.column("finished_at", sa.BigInteger),
    sa.column("release_at", sa.BigInteger),
)


def upgrade() -> None:
    op.add_column("job", sa.Column("release_at", sa.BigInteger(), nullable=True))
    connection = op.get_bind()
    delayed = sa.select(_JOB.c.id, _JOB.c.obligations, _JOB.c.finished_at).where(
        _JOB.c.finished_at.is_not(None), _JOB.c.obligations.contains("release_delay_hours")
    )
    for job in connection.execute(delayed).all():
        hours = json.loads(job.obligations)["release_delay_hours"]
        moment = job.finished_at + hours * _MICROS_AN_HOUR
        connection.execute(sa.update(_JOB).where(_JOB.c.id == job.id).values(release_at=moment))
    op.create_index(
        "decision_by_fault",
        "decision",
        ["fault"],
        sqlite_where=sa.text("fault IS NOT NULL"),
        postgresql_where=sa.text("fault IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("decision_by_fault", table_name="decision")
    op.drop_column("job", "release_at")
