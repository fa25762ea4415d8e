"""Weights that researchers uploaded to begin with.

They are named by their content, so a job that names them names every number in them. A row is
written once and can only be removed. This module must never hold behaviour.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class StartingWeights(SQLModel, table=True):
    """One upload of one researcher; `data` is a file of `kit.tensors`, float32.

    `id` is `wts_` and the SHA-256 of `data`. `shapes` is a JSON list in the order of the model's
    weights. `created_at` is in microseconds UTC.
    """

    __tablename__ = "starting_weights"
    __table_args__ = (
        sa.CheckConstraint("length(id) = 68", name="starting_weights_id"),
        sa.CheckConstraint("parameters >= 1", name="starting_weights_parameters"),
        sa.CheckConstraint("size_bytes = length(data)", name="starting_weights_bytes"),
    )

    researcher_id: str = Field(primary_key=True, max_length=100)
    id: str = Field(primary_key=True, max_length=68)
    shapes: str = Field(sa_type=sa.Text)
    parameters: int = Field(sa_type=sa.BigInteger)
    size_bytes: int = Field(sa_type=sa.BigInteger)
    data: bytes = Field(sa_type=sa.LargeBinary)
    created_at: int = Field(sa_type=sa.BigInteger)


STARTING_WEIGHTS: Final = StartingWeights.__table__  # type: ignore[attr-defined]
