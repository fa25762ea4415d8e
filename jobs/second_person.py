"""Acts that one person proposes and another one approves: four eyes on what loosens protection.

A proposal is an act with its reason, open for a while. Another owner of the same organisation or
an administrator approves or rejects it; the proposer may withdraw it. An approval carries the act
out in the same transaction, and the ledger's entry names both people. A new kind of act is one
more line in `_ACTS`; one that must be prepared before the transaction is handed to `decide`.
Nobody's own approval may ever count, and nothing late may be carried out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import ledger
from jobs.principal import Principal
from jobs.services import Services
from jobs.tables_people import PROPOSAL, Proposal
from kit.clock import from_micros, micros, rfc3339
from privacy_gateway import canonical
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import Decide
from privacy_gateway.views import ProposalView

Act = Callable[[Session, Proposal, str, datetime], object]


def propose(
    services: Services,
    session: Session,
    principal: Principal,
    kind: str,
    population_id: str,
    body: Mapping[str, Any],
    reason: str,
) -> Proposal:
    """Put an act before a second person; the caller has checked that it is hers to propose.

    Args:
        services: clock, ids and the window's length.
        session: open transaction.
        principal: who wants it.
        kind: what kind of act.
        population_id: whose budget it is about; its ledger tells of the proposal.
        body: the act's numbers.
        reason: for the second person and the ledger.

    Raises:
        Refused: `not_found` for the population.
    """
    now = services.clock()
    row = Proposal(
        id=services.new_id("prp"),
        kind=kind,
        population_id=population_id,
        owner_id=ledger.balance(session, population_id).owner_id,
        organisation=principal.organisation,
        body=canonical.dumps(dict(body), floats=True).decode(),
        reason=reason,
        proposed_by=principal.id,
        created_at=micros(now),
        expires_at=micros(now + timedelta(hours=services.settings.proposal_hours)),
    )
    session.add(row)
    session.flush()
    note(session, row, "proposed", reason, principal.id, now)
    return row


def decidable(
    session: Session,
    services: Services,
    principal: Principal,
    proposal_id: str,
    decision: str,
) -> Proposal:
    """A proposal that these words of this person would decide now.

    Raises:
        Refused: `not_found`, `forbidden` or `conflict`, as `decide`.
    """
    row = _seen(session, principal, proposal_id)
    _refuse(row, principal, decision, services.clock())
    return row


def decide(
    services: Services,
    principal: Principal,
    proposal_id: str,
    request: Decide,
    prepared: Mapping[str, Act] = MappingProxyType({}),
) -> ProposalView:
    """Approve and carry out, reject, or withdraw.

    Args:
        services: clock and database.
        principal: whose word it is.
        proposal_id: about what.
        request: `approve`, `reject` or `withdraw`, with a note.
        prepared: acts by kind that others than this module carry out.

    Raises:
        Refused: `not_found` for a proposal of another organisation; `forbidden` for one's own
            approval, another's withdrawal or a role that has no say; `conflict` when it is decided
            or too late; and whatever the act itself is refused with.
    """
    now = services.clock()
    with services.database.unit_of_work() as session:
        row = _seen(session, principal, proposal_id)
        # The population's lock orders this before or after every other act on it.
        ledger.lock(session, [row.population_id])
        session.refresh(row)
        _refuse(row, principal, request.decision, now)
        taken = session.execute(
            sa.update(PROPOSAL)
            .where(PROPOSAL.c.id == row.id, PROPOSAL.c.state == "open")
            .values(
                state={"approve": "approved", "reject": "rejected"}.get(
                    request.decision, "withdrawn"
                ),
                decided_by=principal.id,
                decided_at=micros(now),
                note=request.note,
            )
            .returning(PROPOSAL.c.id)
        )
        if taken.one_or_none() is None:
            raise Refused("conflict", f"{row.id} is decided already")
        session.refresh(row)
        if request.decision == "approve":
            {**_ACTS, **prepared}[row.kind](session, row, principal.id, now)
        else:
            note(session, row, row.state, request.note or row.reason, principal.id, now)
        return view(row, now)


def view(row: Proposal, now: datetime) -> ProposalView:
    """A proposal as people see it."""
    late = row.state == "open" and row.expires_at < micros(now)
    return ProposalView.model_validate(
        {
            "id": row.id,
            "kind": row.kind,
            "population": row.population_id,
            "body": json.loads(row.body),
            "reason": row.reason,
            "proposed_by": row.proposed_by,
            "state": "expired" if late else row.state,
            "decided_by": row.decided_by,
            "decided_at": None if row.decided_at is None else rfc3339(from_micros(row.decided_at)),
            "note": row.note,
            "created_at": rfc3339(from_micros(row.created_at)),
            "expires_at": rfc3339(from_micros(row.expires_at)),
        }
    )


def _seen(session: Session, principal: Principal, proposal_id: str) -> Proposal:
    row = session.get(Proposal, proposal_id)
    theirs = row is not None and row.organisation == principal.organisation
    if row is None or not (theirs or principal.role == "admin"):
        raise Refused("not_found", "there is no such proposal, or it is not yours to see")
    return row


def _refuse(row: Proposal, principal: Principal, decision: str, now: datetime) -> None:
    own = row.proposed_by == principal.id
    if decision == "approve" and own:
        raise Refused("forbidden", "nobody is the second person of a proposal of their own")
    if decision == "withdraw" and not own:
        raise Refused("forbidden", "only who proposed it can withdraw it")
    if decision == "reject" and own:
        raise Refused("forbidden", "withdraw a proposal of your own instead of rejecting it")
    if row.state != "open":
        raise Refused("conflict", f"{row.id} is {row.state} already")
    if micros(now) > row.expires_at:
        raise Refused("conflict", f"{row.id} expired at {rfc3339(from_micros(row.expires_at))}")


def note(
    session: Session, row: Proposal, what: str, reason: str, actor_id: str, now: datetime
) -> None:
    """Tell the population's ledger what became of a proposal, and who said so."""
    facts = {
        "proposal": row.id,
        "action": f"{row.kind} {what}",
        "body": json.loads(row.body),
        "proposed_by": row.proposed_by,
        "expires_at": row.expires_at,
    }
    ledger.note(
        session,
        population_id=row.population_id,
        reason=reason,
        actor_id=actor_id,
        facts=facts,
        now=now,
    )


def _grant(session: Session, row: Proposal, approver_id: str, now: datetime) -> object:
    return ledger.grant(
        session,
        population_id=row.population_id,
        epsilon=json.loads(row.body)["epsilon"],
        reason=row.reason,
        actor_id=row.proposed_by,
        approved_by=approver_id,
        proposal=row.id,
        now=now,
    )


def _one_person(session: Session, row: Proposal, approver_id: str, now: datetime) -> object:
    return ledger.set_second_person(
        session,
        population_id=row.population_id,
        needed=False,
        reason=row.reason,
        actor_id=row.proposed_by,
        approved_by=approver_id,
        proposal=row.id,
        now=now,
    )


_ACTS: Final[dict[str, Act]] = {"grant": _grant, "one_person": _one_person}
