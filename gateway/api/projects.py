"""Projects: names that researchers work under together, and who is a member of which."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from gateway import scope
from gateway.body import json_body
from gateway.deps import Admin, Anybody, Outside, PageAsked
from gateway.paging import page
from jobs import projects
from jobs.tables_people import PROJECT, Project
from kit.clock import from_micros, rfc3339
from privacy_gateway.schemas import NewProject
from privacy_gateway.views import Page, ProjectView

router = APIRouter(prefix="/v1/projects", tags=["projects"])


@router.post("", status_code=201)
def create(
    services: Outside, caller: Admin, body: Annotated[NewProject, json_body(NewProject)]
) -> ProjectView:
    """Make a project; owners can give it a share of their budgets."""
    with services.database.unit_of_work() as session:
        return _view(session, projects.create(session, caller, body, now=services.clock()), True)


@router.get("")
def list_projects(services: Outside, caller: Anybody, asked: PageAsked) -> Page[ProjectView]:
    """The projects one is a member of; administrators and auditors see all, with members."""
    everything = caller.role in ("admin", "auditor")
    query = sa.select(Project) if everything else projects.of_member(caller.id)
    with services.database.read() as session:
        return page(
            session, query, PROJECT.c.name, asked, lambda row: _view(session, row, everything)
        )


@router.put("/{project}/members/{researcher}")
def add_member(services: Outside, caller: Admin, project: str, researcher: str) -> ProjectView:
    """Let a researcher (id or address) charge jobs to the project."""
    with services.database.unit_of_work() as session:
        user_id = scope.researcher_id(session, researcher)
        projects.add_member(session, caller, project, user_id, now=services.clock())
        return _view(session, projects.find(session, project), True)


@router.delete("/{project}/members/{researcher}", status_code=204)
def remove_member(services: Outside, caller: Admin, project: str, researcher: str) -> Response:
    """End a membership; the researcher's jobs for the project end before their next rounds."""
    with services.database.unit_of_work() as session:
        projects.remove_member(session, project, scope.researcher_id(session, researcher))
    return Response(status_code=204)


def _view(session: Session, row: Project, with_members: bool) -> ProjectView:
    return ProjectView(
        name=row.name,
        title=row.title,
        organisation=row.organisation,
        members=projects.members(session, row.name) if with_members else None,
        created_at=rfc3339(from_micros(row.created_at)),
    )
