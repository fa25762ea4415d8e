"""How Alembic reaches the database: a connection that `gateway.schema` opened, nothing else.

All rooms' tables share one metadata; importing them here makes `models == schema` testable.
"""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import policies.tables  # noqa: F401

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    # SQLite cannot alter most things in place; Alembic copies the table instead.
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
