"""Sweeps: several runs that were admitted together, or not at all.

A sweep owns nothing but the bond between its jobs; each of them lives and ends like any other job.
This module must never hold behaviour.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kit.guards import Guard, protect


class Sweep(SQLModel, table=True):
    """One admitted sweep. `request_hash` is of all bodies together; `created_at` in microseconds.

    `key` is the researcher's Idempotency-Key, kept for ever; keys of sweeps and of single jobs are
    apart.
    """

    __tablename__ = "sweep"
    __table_args__ = (
        sa.UniqueConstraint("researcher_id", "key", name="sweep_key"),
        sa.CheckConstraint("length(request_hash) = 64", name="sweep_hash"),
        sa.CheckConstraint("key IS NULL OR length(key) BETWEEN 1 AND 200", name="sweep_key_length"),
    )

    id: str = Field(primary_key=True, max_length=100)
    researcher_id: str = Field(max_length=100)
    key: str | None = Field(default=None, max_length=200)
    request_hash: str = Field(max_length=64)
    created_at: int = Field(sa_type=sa.BigInteger)


class SweepMember(SQLModel, table=True):
    """Which job stands at which place of a sweep, from 1; a job belongs to one sweep at most."""

    __tablename__ = "sweep_member"
    __table_args__ = (sa.CheckConstraint("place >= 1", name="sweep_member_place"),)

    sweep_id: str = Field(primary_key=True, max_length=100, foreign_key="sweep.id")
    place: int = Field(primary_key=True)
    job_id: str = Field(foreign_key="job.id", unique=True)


SWEEP: Final = Sweep.__table__  # type: ignore[attr-defined]
SWEEP_MEMBER: Final = SweepMember.__table__  # type: ignore[attr-defined]

for _name in ("sweep", "sweep_member"):
    protect(SQLModel.metadata.tables[_name], Guard(_name))
