"""Who works on what together, and what waits for a second person.

A project is a name that researchers are members of and that shares of budgets can be given to. A
proposal is an act that somebody wants and somebody else has to approve. Neither may hold behaviour.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kit.guards import Guard, protect


class Project(SQLModel, table=True):
    """A piece of work that several researchers do together; its name is its id."""

    __tablename__ = "project"
    __table_args__ = (
        sa.CheckConstraint("length(name) > 0 AND length(organisation) > 0", name="project_named"),
    )

    name: str = Field(primary_key=True, max_length=100)
    title: str = Field(max_length=200)
    organisation: str = Field(max_length=200)
    created_by: str = Field(max_length=100)
    created_at: int = Field(sa_type=sa.BigInteger)


class ProjectMember(SQLModel, table=True):
    """That a researcher may charge jobs to a project."""

    __tablename__ = "project_member"

    project: str = Field(foreign_key="project.name", primary_key=True, max_length=100)
    user_id: str = Field(primary_key=True, max_length=100)
    added_by: str = Field(max_length=100)
    added_at: int = Field(sa_type=sa.BigInteger)


class Proposal(SQLModel, table=True):
    """An act on a budget that one person proposed and another one has to approve in time.

    `body` is canonical JSON, by `kind`. `population_id` is whose ledger tells of it. Times in
    microseconds since 1970 UTC.
    """

    __tablename__ = "proposal"
    __table_args__ = (
        sa.CheckConstraint("length(kind) > 0 AND length(reason) > 0", name="proposal_said"),
        sa.CheckConstraint(
            "state IN ('open', 'approved', 'rejected', 'withdrawn')", name="proposal_state"
        ),
        sa.CheckConstraint(
            "(state = 'open') = (decided_by IS NULL)"
            " AND (decided_by IS NULL) = (decided_at IS NULL)",
            name="proposal_decided",
        ),
        sa.CheckConstraint(
            "state <> 'approved' OR (decided_by <> proposed_by AND decided_at <= expires_at)",
            name="proposal_two_people",
        ),
        sa.CheckConstraint(
            "state <> 'withdrawn' OR decided_by = proposed_by", name="proposal_withdrawn"
        ),
        sa.CheckConstraint("expires_at > created_at", name="proposal_window"),
    )

    id: str = Field(primary_key=True, max_length=100)
    kind: str = Field(max_length=40)
    population_id: str = Field(foreign_key="population.id", index=True, max_length=64)
    owner_id: str = Field(max_length=100)
    organisation: str = Field(max_length=200)
    body: str
    reason: str = Field(max_length=200)
    proposed_by: str = Field(max_length=100)
    created_at: int = Field(sa_type=sa.BigInteger)
    expires_at: int = Field(sa_type=sa.BigInteger)
    state: str = Field(default="open", max_length=20)
    decided_by: str | None = Field(default=None, max_length=100)
    decided_at: int | None = Field(default=None, sa_type=sa.BigInteger)
    note: str = Field(default="", max_length=2000)


PROJECT: Final = SQLModel.metadata.tables["project"]
PROJECT_MEMBER: Final = SQLModel.metadata.tables["project_member"]
PROPOSAL: Final = SQLModel.metadata.tables["proposal"]

protect(PROJECT, Guard("project", ("name", "organisation", "created_by", "created_at")))
protect(
    PROPOSAL,
    Guard(
        "proposal",
        (
            "id",
            "kind",
            "population_id",
            "owner_id",
            "organisation",
            "body",
            "reason",
            "proposed_by",
            "created_at",
            "expires_at",
        ),
    ),
)
