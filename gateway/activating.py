"""Letting a revision decide: at once, or once a second person agrees to a looser one.

Whether a population asks for two people is its owner's word; whether a revision is looser is found
by asking both texts (`policies.looser`). Both are looked at again under the population's lock. An
approval examines the text anew. Nothing here may let a looser text decide on one person's word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Final

from fastapi import Response
from sqlalchemy.orm import Session

from accounting import ledger
from accounting.tables import Population
from gateway import examined
from jobs import second_person
from jobs.principal import Principal
from jobs.second_person import Act
from jobs.services import Services
from jobs.tables_datasets import Dataset
from jobs.tables_people import Proposal
from policies import activation, life, looser, revisions, staging
from policies.activation import Examination
from policies.engine import PolicyEngine, Revision
from policies.looser import Comparison
from privacy_gateway import canonical
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import Decide
from privacy_gateway.views import ProposalView, RevisionView

KIND: Final = "activate_policy"


def activate(
    services: Services,
    examiners: tuple[PolicyEngine, ...],
    caller: Principal,
    stored: Revision,
    found: Examination,
    response: Response,
) -> RevisionView | ProposalView:
    """Let an examined draft decide, or propose it (202) where that takes a second person.

    Args:
        services: the outside world.
        examiners: every engine that has to agree.
        caller: who activates; owns the data set.
        stored: the draft.
        found: its examination, made just now.
        response: takes the status.

    Raises:
        Refused: `conflict`, `policy_refused` or `policy_unavailable`; nothing has changed then.
    """
    compared = None
    if stored.state == "draft":
        activation.refuse_unless_passed(found)
        compared = _compared(services, examiners, stored)
        if compared is not None and compared.looser:
            response.status_code = 202
            return _propose(services, caller, stored, found, compared)
        _bring_to_engines(services, examiners, stored)
    with services.database.unit_of_work() as session:
        _refuse_moved(session, stored, compared)
        active = _carry_out(session, examiners, stored, found, caller.id, services.clock())
    return examined.view(active, found)


def prepared(
    services: Services,
    examiners: tuple[PolicyEngine, ...],
    caller: Principal,
    proposal_id: str,
    request: Decide,
) -> Mapping[str, Act]:
    """What an approval of an activation carries out: the text examined anew, before any lock.

    Raises:
        Refused: as `second_person.decide`; `policy_refused` or `policy_unavailable`, and the
            proposal stays open.
    """
    with services.database.read() as session:
        row = second_person.decidable(session, services, caller, proposal_id, request.decision)
        if row.kind != KIND or request.decision != "approve":
            return {}
        body = json.loads(row.body)
        stored = revisions.get(session, dataset_id=body["dataset"], number=body["number"])
    if stored.digest != body["digest"]:
        raise Refused("conflict", f"revision {stored.number} is not the text that was proposed")
    found = activation.examine(examiners, stored, floor=examined.floor(services))
    activation.refuse_unless_passed(found)
    if stored.state == "draft":
        _bring_to_engines(services, examiners, stored)
    return {KIND: partial(_approved, examiners, stored, found)}


def _compared(
    services: Services, examiners: tuple[PolicyEngine, ...], stored: Revision
) -> Comparison | None:
    """The draft against the active one; None where one person's word is enough."""
    with services.database.read() as session:
        if not _population(session, stored).second_person:
            return None
        active = revisions.active(session, stored.dataset_id)
        rows = life.recent(session, stored.dataset_id, last=looser.PAST)
    past = [row | {"input": canonical.loads_strict(row["input"].encode())} for row in rows]
    return looser.compare(examined.embedded(examiners), active, stored, past)


def _propose(
    services: Services,
    caller: Principal,
    stored: Revision,
    found: Examination,
    compared: Comparison,
) -> ProposalView:
    body = {
        "dataset": stored.dataset_id,
        "number": stored.number,
        "digest": stored.digest,
        "active": compared.active_number,
        "past_inputs": compared.past,
        "loosened": compared.loosened,
    }
    with services.database.unit_of_work() as session:
        population = _population(session, stored).id
        life.note_examined(session, stored, found, now=services.clock())
        row = second_person.propose(
            services, session, caller, KIND, population, body, stored.reason[:200]
        )
        return second_person.view(row, services.clock())


def _refuse_moved(session: Session, stored: Revision, compared: Comparison | None) -> None:
    """What was found stricter was so beside the revision that decided then; is it still that one?

    Raises:
        Refused: `conflict`.
    """
    population = _population(session, stored)
    if stored.state != "draft" or not population.second_person:
        return
    ledger.lock(session, [population.id])
    active = revisions.active(session, stored.dataset_id)
    if compared is None or compared.active_id != (None if active is None else active.id):
        detail = "another policy or rule applies since this revision was compared; activate again"
        raise Refused("conflict", detail)


def _bring_to_engines(
    services: Services, examiners: tuple[PolicyEngine, ...], stored: Revision
) -> None:
    """No engine that decides may be asked for a text it has never seen."""
    with services.database.unit_of_work() as session:
        staging.stage(session, stored, now=services.clock())
    staging.wait(examiners, stored)


def _carry_out(
    session: Session,
    examiners: tuple[PolicyEngine, ...],
    stored: Revision,
    found: Examination,
    actor_id: str,
    now: datetime,
) -> Revision:
    active = revisions.activate(
        session,
        examiners,
        dataset_id=stored.dataset_id,
        number=stored.number,
        actor_id=actor_id,
        now=now,
        examination=found,
    )
    return life.note_examined(session, active, found, now=now)


def _approved(
    examiners: tuple[PolicyEngine, ...],
    stored: Revision,
    found: Examination,
    session: Session,
    row: Proposal,
    approver_id: str,
    now: datetime,
) -> object:
    """The proposer activates; the population's ledger names both people."""
    active = _carry_out(session, examiners, stored, found, row.proposed_by, now)
    second_person.note(session, row, "approved", row.reason, approver_id, now)
    return active


def _population(session: Session, stored: Revision) -> Population:
    dataset = session.get_one(Dataset, stored.dataset_id)
    return session.get_one(Population, dataset.population_id)
