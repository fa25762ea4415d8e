"""The owner's policy: draft, examine, try out, activate. Texts never change once stored."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Response
from sqlalchemy.orm import Session

from gateway import activating, dryrun, examined, scope
from gateway.body import json_body
from gateway.deps import Examiners, Outside, Owner, OwnerOrAuditor, PageAsked
from gateway.paging import cut
from jobs.principal import Principal
from policies import activation, life, revisions
from policies.engine import Revision
from privacy_gateway.errors import invalid
from privacy_gateway.schemas import NewPolicy
from privacy_gateway.views import DryRun, DryRunView, Page, ProposalView, RevisionView

router = APIRouter(prefix="/v1/datasets/{dataset_id}/policies", tags=["policies"])

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
_NUMBER = re.compile("[0-9]{1,9}")


@router.post("", status_code=201)
def draft(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    dataset_id: str,
    body: Annotated[NewPolicy, json_body(NewPolicy)],
) -> RevisionView:
    """Store a text as the next revision, examined on every engine; it decides nothing yet."""
    with services.database.read() as session:
        scope.own_dataset(session, caller, dataset_id)
    text = Revision.of_text(body.source, body.tests, dataset_id=dataset_id)
    found = activation.examine(examiners, text, floor=examined.floor(services))
    with services.database.unit_of_work() as session:
        stored = revisions.draft(
            session,
            dataset_id=dataset_id,
            source=body.source,
            tests=body.tests,
            reason=body.reason,
            author_id=caller.id,
            now=services.clock(),
            ids=services.new_id,
        )
        stored = life.note_examined(session, stored, found, now=services.clock())
    return examined.view(stored, found)


@router.get("")
def list_policies(
    services: Outside, caller: OwnerOrAuditor, dataset_id: str, asked: PageAsked
) -> Page[RevisionView]:
    """All revisions of a data set, without their texts."""
    if asked.after is not None and not _NUMBER.fullmatch(asked.after):
        raise invalid("after", "is the number of a revision", value=asked.after)
    with services.database.read() as session:
        scope.dataset(session, caller, dataset_id)
        rows = revisions.list_revisions(
            session, dataset_id, after=int(asked.after or 0), limit=asked.limit + 1
        )
    return cut(rows, asked, lambda row: str(row.number), examined.brief)


@router.get("/{number}")
def show(
    services: Outside, caller: OwnerOrAuditor, dataset_id: str, number: Number
) -> RevisionView:
    """One revision with source and tests."""
    with services.database.read() as session:
        scope.dataset(session, caller, dataset_id)
        return examined.plain(revisions.get(session, dataset_id=dataset_id, number=number))


@router.post(
    "/{number}/activate",
    responses={202: {"model": ProposalView, "description": "Waits for a second person"}},
)
def activate(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    dataset_id: str,
    number: Number,
    response: Response,
) -> RevisionView | ProposalView:
    """Let a draft decide from now on; refused with every problem unless it passes its checks.

    Where it is looser and the population asks for a second person: 202 and a proposal.
    """
    with services.database.read() as session:
        scope.own_dataset(session, caller, dataset_id)
        stored = revisions.get(session, dataset_id=dataset_id, number=number)
    # Examined before the transaction: tests and probes take too long to hold a lock.
    found = activation.examine(examiners, stored, floor=examined.floor(services))
    return activating.activate(services, examiners, caller, stored, found, response)


@router.post("/{number}/dry-run")
def dry_run(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    dataset_id: str,
    number: Number,
    body: Annotated[DryRun, json_body(DryRun)],
) -> DryRunView:
    """What a revision would decide about a request, new or past; nothing is recorded.

    A new request is asked in the name of `as_researcher`, or of a sample researcher of the owner's
    organisation without quota and history; a past one exactly as it was asked.
    """
    with services.database.read() as session:
        scope.own_dataset(session, caller, dataset_id)
        asking = _asking(session, caller, body)
        revision = revisions.get(session, dataset_id=dataset_id, number=number)
    activation.refuse_unclean(examiners, revision)
    with services.engine.trial() as engine:
        trying = replace(services, engine=engine)
        if isinstance(body.job, str):
            return dryrun.of_past_job(trying, caller, revision, body.job)
        return dryrun.of_request(trying, asking, revision, body.job)


def _asking(session: Session, caller: Principal, body: DryRun) -> Principal:
    """In whose name a new request is tried."""
    if body.as_researcher is not None and isinstance(body.job, str):
        raise invalid("as_researcher", "a past job is asked as it was; leave this out")
    return examined.asking(session, caller, body.as_researcher)
