"""Projects: a name that several researchers work under, and that shares of budgets are given to.

Administrators say who is a member; a researcher may only charge a job to a project of hers, which
is looked up again under the budget's lock. For everybody else a project does not exist, word for
word as one that was never made.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs.principal import Principal
from jobs.tables_people import PROJECT, PROJECT_MEMBER, Project
from kit.clock import micros
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.schemas import NewProject

_IS_MEMBER = sa.select(PROJECT_MEMBER.c.project).where(
    PROJECT_MEMBER.c.project == sa.bindparam("project"),
    PROJECT_MEMBER.c.user_id == sa.bindparam("user"),
)


def create(
    session: Session, principal: Principal, request: NewProject, *, now: datetime
) -> Project:
    """Make a project; nobody is a member yet.

    Raises:
        Refused: `conflict` when the name is taken.
    """
    if session.get(Project, request.name) is not None:
        raise Refused("conflict", f"there is a project {request.name} already")
    row = Project(
        name=request.name,
        title=request.title,
        organisation=principal.organisation,
        created_by=principal.id,
        created_at=micros(now),
    )
    session.add(row)
    session.flush()
    return row


def find(session: Session, name: str) -> Project:
    """One project.

    Raises:
        Refused: `not_found`.
    """
    row = session.get(Project, name)
    if row is None:
        raise _nothing(name)
    return row


def add_member(
    session: Session, principal: Principal, name: str, user_id: str, *, now: datetime
) -> None:
    """Let a researcher charge jobs to a project; twice is the same as once.

    Raises:
        Refused: `not_found`.
    """
    find(session, name)
    if is_member(session, name, user_id):
        return
    session.execute(
        PROJECT_MEMBER.insert().values(
            project=name, user_id=user_id, added_by=principal.id, added_at=micros(now)
        )
    )


def remove_member(session: Session, name: str, user_id: str) -> None:
    """End a membership; jobs of the project that still run end before their next rounds.

    Raises:
        Refused: `not_found` for the project or the membership.
    """
    find(session, name)
    if not is_member(session, name, user_id):
        raise Refused("not_found", "the account is no member of the project")
    session.execute(
        PROJECT_MEMBER.delete().where(
            PROJECT_MEMBER.c.project == name, PROJECT_MEMBER.c.user_id == user_id
        )
    )


def members(session: Session, name: str) -> list[str]:
    """Account ids of a project's members, sorted."""
    query = sa.select(PROJECT_MEMBER.c.user_id).where(PROJECT_MEMBER.c.project == name)
    return sorted(session.scalars(query))


def of_member(user_id: str) -> sa.Select[Project]:
    """The projects of one researcher, as a query to narrow further."""
    mine = sa.select(PROJECT_MEMBER.c.project).where(PROJECT_MEMBER.c.user_id == user_id)
    return sa.select(Project).where(PROJECT.c.name.in_(mine))


def is_member(session: Session, name: str, user_id: str) -> bool:
    """Whether the account may charge the project."""
    found = session.execute(_IS_MEMBER, {"project": name, "user": user_id})
    return found.one_or_none() is not None


def require_member(session: Session, principal: Principal, name: str | None) -> None:
    """Raise unless the caller may charge a job to the project; no project needs nothing.

    Raises:
        Refused: `not_found`, the same for no such project and for one of others.
    """
    if name is not None and not is_member(session, name, principal.id):
        raise _nothing(name)


def _nothing(name: str) -> Refused:
    fault = FieldError("project", "there is no such project, or you are no member of it", name)
    return Refused(
        "not_found", f"there is no project {name} that you are a member of", errors=[fault]
    )
