"""Alembic environment; `gateway.schema` runs it."""
