"""What endpoints are given: services, the caller, a page; and the roles a route admits.

A route says who may call it by one dependency, `Caller = Annotated[Principal, allow("owner")]`,
which the generated role matrix test reads back. A dependency must never open a transaction that
outlives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, AwareDatetime

from gateway.auth import authenticate
from gateway.settings import GatewaySettings
from jobs.principal import Principal
from jobs.services import Services
from policies.engine import PolicyEngine
from policies.verdict import APPROVER_ROLES
from privacy_gateway.schemas import Role

EVERYBODY: tuple[Role, ...] = ("admin", "owner", "researcher", "auditor")


def services(request: Request) -> Services:
    """The outside world, built once by the composition root."""
    return cast("Services", request.app.state.services)


def settings(request: Request) -> GatewaySettings:
    """The front door's settings."""
    return cast("GatewaySettings", request.app.state.settings)


def examiners(request: Request) -> tuple[PolicyEngine, ...]:
    """Every engine that has to agree before a policy is activated."""
    return cast("tuple[PolicyEngine, ...]", request.app.state.examiners)


def principal(request: Request, services: Annotated[Services, Depends(services)]) -> Principal:
    """The caller, from the bearer token.

    Raises:
        Refused: `unauthenticated`.
    """
    with services.database.read() as session:
        return authenticate(session, request.headers.get("authorization"), now=services.clock())


@dataclass(frozen=True, slots=True)
class Allow:
    """A dependency that answers the caller if their role is one of `roles`."""

    roles: tuple[Role, ...]

    def __call__(self, caller: Annotated[Principal, Depends(principal)]) -> Principal:
        caller.require(*self.roles)
        return caller


def allow(*roles: Role) -> Any:
    """The caller if they have one of `roles`; goes into `Annotated[Principal, …]`."""
    return Depends(Allow(roles))


@dataclass(frozen=True, slots=True)
class Paging:
    """A keyset page: entries after `after`, at most `limit`."""

    after: str | None
    limit: int


def paging(
    after: Annotated[str | None, Query(max_length=200, description="`next` of a page")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Paging:
    """The page a listing was asked for."""
    return Paging(after, limit)


def _in_utc(moment: datetime) -> datetime:
    """The same moment in UTC, where there is such a year."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time of the years 1 to 9999 in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Outside = Annotated[Services, Depends(services)]
Configured = Annotated[GatewaySettings, Depends(settings)]
Examiners = Annotated[tuple[PolicyEngine, ...], Depends(examiners)]
PageAsked = Annotated[Paging, Depends(paging)]
Anybody = Annotated[Principal, allow(*EVERYBODY)]
Admin = Annotated[Principal, allow("admin")]
Owner = Annotated[Principal, allow("owner", "admin")]
OwnerOrAuditor = Annotated[Principal, allow("owner", "auditor", "admin")]
Researcher = Annotated[Principal, allow("researcher")]
Pricer = Annotated[Principal, allow("researcher", "owner")]
Approver = Annotated[Principal, allow(*APPROVER_ROLES)]
Canceller = Annotated[Principal, allow("researcher", "owner", "admin")]
