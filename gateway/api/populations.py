"""Populations: the people, the budget that protects them, who may spend how much of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from accounting import blocks, ledger, quotas
from accounting import filter as admission
from accounting.odometer import Odometer
from accounting.quotas import QuotaBalance
from accounting.tables import POPULATION, Population
from gateway import scope
from gateway.body import json_body
from gateway.deps import Anybody, Moment, Outside, Owner, OwnerOrAuditor, PageAsked
from gateway.paging import page
from jobs import projects, second_person
from jobs.principal import Principal
from kit.clock import from_micros, rfc3339
from privacy_gateway import gdp
from privacy_gateway.errors import invalid
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import (
    Grant,
    NewBlock,
    NewPopulation,
    QuotaRequest,
    Reason,
    SecondPerson,
)
from privacy_gateway.views import (
    BlockBudgetView,
    BlockView,
    BudgetView,
    Page,
    PopulationView,
    ProjectQuotaView,
    ProposalView,
    QuotaView,
)

router = APIRouter(prefix="/v1/populations", tags=["populations"])


@router.post("", status_code=201)
def create(
    services: Outside, caller: Owner, body: Annotated[NewPopulation, json_body(NewPopulation)]
) -> PopulationView:
    """Open the budget (ε, δ) of a group of people, once for all data about them."""
    with services.database.unit_of_work() as session:
        opened = ledger.open_population(
            session,
            population_id=services.new_id("pop"),
            name=body.name,
            privacy_unit=body.privacy_unit,
            clients=body.clients,
            epsilon=body.epsilon,
            delta=body.delta,
            owner_id=caller.id,
            now=services.clock(),
            reason=body.reason,
            second_person=body.second_person,
            filter=body.filter,
        )
        return _stored(session, opened.population_id)


@router.get("")
def list_populations(services: Outside, caller: Anybody, asked: PageAsked) -> Page[PopulationView]:
    """The populations one may see."""
    with services.database.read() as session:
        return page(session, scope.populations(caller), POPULATION.c.id, asked, _view)


@router.get("/{population_id}")
def show(services: Outside, caller: Anybody, population_id: str) -> PopulationView:
    """One population."""
    with services.database.read() as session:
        return _view(scope.population(session, caller, population_id))


@router.get("/{population_id}/budget")
def budget(
    services: Outside,
    caller: Anybody,
    population_id: str,
    at: Annotated[Moment | None, Query(description="RFC 3339 time in the past")] = None,
) -> BudgetView:
    """The odometer, now or at an earlier moment; a researcher sees only their own quota."""
    if at is not None and at > services.clock():
        raise invalid("at", "is in the future; leave it out for the present")
    with services.database.read() as session:
        scope.population(session, caller, population_id)
        found = ledger.odometer(session, population_id, at=at)
        shares = found.quotas
        if caller.role == "researcher":
            mine = {caller.id, *scope.projects(session, caller)}
            shares = tuple(share for share in shares if share.holder_id in mine)
    return _budget(found, shares, at)


@router.post(
    "/{population_id}/grants",
    status_code=201,
    responses={202: {"model": ProposalView, "description": "Waits for a second person"}},
)
def grant(
    services: Outside,
    caller: Owner,
    population_id: str,
    body: Annotated[Grant, json_body(Grant)],
    response: Response,
) -> PopulationView | ProposalView:
    """Raise ε by a new entry; what was spent stays spent.

    Where the population asks for a second person, the answer is 202 and a proposal.
    """
    with services.database.unit_of_work() as session:
        if scope.own_population(session, caller, population_id).second_person:
            response.status_code = 202
            wanted = {"epsilon": body.epsilon}
            row = second_person.propose(
                services, session, caller, "grant", population_id, wanted, body.reason
            )
            return second_person.view(row, services.clock())
        ledger.grant(
            session,
            population_id=population_id,
            epsilon=body.epsilon,
            reason=body.reason,
            actor_id=caller.id,
            now=services.clock(),
        )
        return _stored(session, population_id)


@router.post("/{population_id}/freeze")
def freeze(
    services: Outside,
    caller: Owner,
    population_id: str,
    body: Annotated[Reason, json_body(Reason)],
) -> PopulationView:
    """Stop every reservation and charge at once; running jobs end before their next round."""
    with services.database.unit_of_work() as session:
        scope.own_population(session, caller, population_id)
        ledger.freeze(session, **_why(caller, population_id, body), now=services.clock())
        return _stored(session, population_id)


@router.post("/{population_id}/unfreeze")
def unfreeze(
    services: Outside,
    caller: Owner,
    population_id: str,
    body: Annotated[Reason, json_body(Reason)],
) -> PopulationView:
    """Let jobs be reserved and charged again."""
    with services.database.unit_of_work() as session:
        scope.own_population(session, caller, population_id)
        ledger.unfreeze(session, **_why(caller, population_id, body), now=services.clock())
        return _stored(session, population_id)


@router.put("/{population_id}/quotas/{researcher}")
def set_quota(
    services: Outside,
    caller: Owner,
    population_id: str,
    researcher: str,
    body: Annotated[QuotaRequest, json_body(QuotaRequest)],
) -> QuotaView:
    """Limit one researcher (id or address) to a share of ε; spending so far counts."""
    with services.database.unit_of_work() as session:
        scope.own_population(session, caller, population_id)
        researcher_id = scope.researcher_id(session, researcher)
        ledger.set_quota(
            session,
            population_id=population_id,
            researcher_id=researcher_id,
            epsilon=body.epsilon,
            actor_id=caller.id,
            now=services.clock(),
        )
        stored = _quota(ledger.quota(session, population_id, researcher_id))
    assert stored is not None  # noqa: S101  (it was set a line ago)
    return stored


@router.put("/{population_id}/project-quotas/{project}")
def set_project_quota(
    services: Outside,
    caller: Owner,
    population_id: str,
    project: str,
    body: Annotated[QuotaRequest, json_body(QuotaRequest)],
) -> ProjectQuotaView:
    """Limit one project to a share of ε; its spending so far counts."""
    with services.database.unit_of_work() as session:
        scope.own_population(session, caller, population_id)
        name = projects.find(session, project).name
        ledger.set_quota(
            session,
            population_id=population_id,
            researcher_id=name,
            kind="project",
            epsilon=body.epsilon,
            actor_id=caller.id,
            now=services.clock(),
        )
        share = quotas.quota(session, population_id, name, kind="project")
    return ProjectQuotaView(project=name, **_share(share))


@router.put(
    "/{population_id}/second-person",
    responses={202: {"model": ProposalView, "description": "Waits for a second person"}},
)
def set_second_person(
    services: Outside,
    caller: Owner,
    population_id: str,
    body: Annotated[SecondPerson, json_body(SecondPerson)],
    response: Response,
) -> PopulationView | ProposalView:
    """Ask for a second person before a raise; to stop asking needs a second person itself (202)."""
    with services.database.unit_of_work() as session:
        row = scope.own_population(session, caller, population_id)
        if row.second_person and not body.needed:
            response.status_code = 202
            made = second_person.propose(
                services, session, caller, "one_person", population_id, {}, body.reason
            )
            return second_person.view(made, services.clock())
        ledger.set_second_person(
            session,
            population_id=population_id,
            needed=body.needed,
            reason=body.reason,
            actor_id=caller.id,
            now=services.clock(),
        )
        return _stored(session, population_id)


@router.post("/{population_id}/blocks", status_code=201)
def open_block(
    services: Outside,
    caller: Owner,
    population_id: str,
    body: Annotated[NewBlock, json_body(NewBlock)],
) -> BlockView:
    """Open a block: people who are in no other one, so that jobs about them count for them alone.

    Data sets registered with `block` in their manifest enrol them; nobody is in two.
    """
    with services.database.unit_of_work() as session:
        scope.own_population(session, caller, population_id)
        blocks.open_block(
            session,
            population_id=population_id,
            name=body.name,
            clients=body.clients,
            reason=body.reason,
            actor_id=caller.id,
            now=services.clock(),
        )
        return _block(blocks.block(session, population_id, body.name))


@router.get("/{population_id}/blocks")
def list_blocks(
    services: Outside,
    caller: OwnerOrAuditor,
    population_id: str,
    check: Annotated[bool, Query(description="compare members with what was sealed")] = False,
) -> list[BlockView]:
    """A population's blocks; with `check`, whether their members are those the ledger sealed."""
    with services.database.read() as session:
        scope.population(session, caller, population_id)
        there = blocks.blocks(session, population_id)
        if not check:
            return [_block(block) for block in there]
        sealed = blocks.sealed_digests(session, population_id)
        found = [(block, blocks.digest(session, population_id, block.name)) for block in there]
    return [
        _block(block).model_copy(
            update={
                "members_digest": digest,
                "intact": block.members == 0 or sealed.get(block.name) == digest,
            }
        )
        for block, digest in found
    ]


def _block(block: blocks.Block) -> BlockView:
    return BlockView(name=block.name, clients=block.clients, members=block.members)


def _why(caller: Principal, population_id: str, body: Reason) -> dict[str, str]:
    """What an entry about a freeze says."""
    return {"population_id": population_id, "reason": body.reason, "actor_id": caller.id}


def _stored(session: Session, population_id: str) -> PopulationView:
    """The row as the statements before left it: the ledger writes past the identity map."""
    session.expire_all()
    return _view(session.get_one(Population, population_id))


def _view(row: Population) -> PopulationView:
    return PopulationView(
        id=row.id,
        name=row.name,
        privacy_unit=row.privacy_unit,
        clients=row.clients,
        epsilon=row.epsilon_nano / NANO,
        delta=float(row.delta),
        owner_id=row.owner_id,
        frozen=row.frozen,
        second_person=row.second_person,
        filter="gdp" if gdp.chosen(row.weights) else "rdp",
        blocks=row.blocks,
        created_at=rfc3339(from_micros(row.created_at)),
    )


def _quota(share: QuotaBalance) -> QuotaView | None:
    """A researcher's share in ε; None where spending is tracked but no quota set."""
    if share.terms is None:
        return None
    return QuotaView(researcher=share.holder_id, **_share(share))


def _share(share: QuotaBalance) -> dict[str, float]:
    """What of a share that is set was spent and is held, in ε."""
    assert share.terms is not None  # noqa: S101  (the callers look)
    spent = admission.epsilon_spent_nano(share.terms, share.charged)
    total = admission.add(share.charged, share.reserved)
    committed = admission.epsilon_spent_nano(share.terms, total)
    return {
        "epsilon": share.terms.epsilon,
        "epsilon_spent": spent / NANO,
        "epsilon_reserved": (committed - spent) / NANO,
    }


def _budget(found: Odometer, shares: tuple[QuotaBalance, ...], at: Moment | None) -> BudgetView:
    limited = [share for share in shares if share.terms is not None]
    return BudgetView(
        population=found.population_id,
        at=rfc3339(at) if at is not None else None,
        epsilon=found.epsilon,
        delta=found.delta,
        epsilon_spent=found.epsilon_spent,
        epsilon_reserved=found.epsilon_reserved,
        epsilon_remaining=found.epsilon_remaining,
        orders=list(found.orders),
        limit=list(found.limits),
        charged=list(found.charged),
        reserved=list(found.reserved),
        quotas=[
            QuotaView(researcher=share.holder_id, **_share(share))
            for share in limited
            if share.kind == "researcher"
        ],
        project_quotas=[
            ProjectQuotaView(project=share.holder_id, **_share(share))
            for share in limited
            if share.kind == "project"
        ],
        blocks=[BlockBudgetView.model_validate(asdict(block)) for block in found.blocks],
    )
