"""Populations: the people, the budget that protects them, who may spend how much of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from sqlalchemy.orm import Session

from accounting import filter as admission
from accounting import ledger
from accounting.odometer import Odometer
from accounting.quotas import QuotaBalance
from accounting.tables import POPULATION, Population
from gateway import scope
from gateway.body import json_body
from gateway.deps import Anybody, Outside, Owner, PageAsked
from gateway.paging import page
from jobs.principal import Principal
from kit.clock import from_micros, rfc3339
from privacy_gateway import gdp
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import Grant, NewPopulation, QuotaRequest, Reason
from privacy_gateway.views import BudgetView, Page, PopulationView, QuotaView

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
    at: Annotated[AwareDatetime | None, Query(description="RFC 3339 time in the past")] = None,
) -> BudgetView:
    """The odometer, now or at an earlier moment; a researcher sees only their own quota."""
    with services.database.read() as session:
        scope.population(session, caller, population_id)
        found = ledger.odometer(session, population_id, at=at)
    shares = [
        _quota(share)
        for share in found.quotas
        if caller.role != "researcher" or share.researcher_id == caller.id
    ]
    return _budget(found, [share for share in shares if share is not None], at)


@router.post("/{population_id}/grants", status_code=201)
def grant(
    services: Outside,
    caller: Owner,
    population_id: str,
    body: Annotated[Grant, json_body(Grant)],
) -> PopulationView:
    """Raise ε by a new entry; what was spent stays spent."""
    with services.database.unit_of_work() as session:
        scope.own_population(session, caller, population_id)
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
        filter="gdp" if gdp.chosen(row.weights) else "rdp",
        created_at=rfc3339(from_micros(row.created_at)),
    )


def _quota(share: QuotaBalance) -> QuotaView | None:
    """A share in ε; None where spending is tracked but no quota set."""
    if share.terms is None:
        return None
    spent = admission.epsilon_spent_nano(share.terms, share.charged)
    committed = admission.epsilon_spent_nano(
        share.terms, admission.add(share.charged, share.reserved)
    )
    return QuotaView(
        researcher=share.researcher_id,
        epsilon=share.terms.epsilon,
        epsilon_spent=spent / NANO,
        epsilon_reserved=(committed - spent) / NANO,
    )


def _budget(found: Odometer, quotas: list[QuotaView], at: AwareDatetime | None) -> BudgetView:
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
        quotas=quotas,
    )
