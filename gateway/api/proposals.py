"""Proposals: what waits for a second person, and that person's word."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from gateway import activating, scope
from gateway.body import json_body
from gateway.deps import Examiners, Outside, Owner, OwnerOrAuditor, PageAsked
from gateway.paging import page
from jobs import second_person
from jobs.tables_people import PROPOSAL
from privacy_gateway.schemas import Decide
from privacy_gateway.views import Page, ProposalView

router = APIRouter(prefix="/v1/proposals", tags=["proposals"])


@router.get("")
def list_proposals(
    services: Outside, caller: OwnerOrAuditor, asked: PageAsked
) -> Page[ProposalView]:
    """What was proposed in one's organisation, oldest first."""
    now = services.clock()
    with services.database.read() as session:
        return page(
            session,
            scope.proposals(caller),
            PROPOSAL.c.id,
            asked,
            lambda row: second_person.view(row, now),
        )


@router.post("/{proposal_id}/decision")
def decide(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    proposal_id: str,
    body: Annotated[Decide, json_body(Decide)],
) -> ProposalView:
    """Approve (another person than the proposer), reject, or withdraw one's own.

    Approving an activation examines the text again; where it no longer passes, nothing is decided.
    """
    prepared = activating.prepared(services, examiners, caller, proposal_id, body)
    return second_person.decide(services, caller, proposal_id, body, prepared)
