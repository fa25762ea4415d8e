"""PostgreSQL finds the entry that a new one seals by the one index in its order.

What the trigger refuses is the same. The plan of the query before was made while the table was
small and kept for a session, and then read the whole chain of a population for each new entry.
"""

from __future__ import annotations

from alembic import op

from accounting.guards import chain_statements

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(chain_statements("postgresql")[0])


def downgrade() -> None:
    """The function before refused the same, slower; there is nothing to return to."""
