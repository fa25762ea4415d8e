"""A policy tried before it decides, and its past held against it; nothing here records anything.

What-if replay, the allowed region, the audit of the decision log; and the two acts that belong to a
revision's life: going into the shadow, and going back.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import PlainTextResponse

from gateway import activating, dryrun, examined, scope
from gateway.body import json_body
from gateway.deps import Examiners, Outside, Owner, OwnerOrAuditor
from jobs import region as regions
from jobs.principal import Principal
from jobs.services import Services
from kit.clock import from_micros, rfc3339
from policies import activation, archive, life, region, replay, revisions
from policies.engine import PolicyEngine
from privacy_gateway import canonical
from privacy_gateway.errors import Refused
from privacy_gateway.policy_views import (
    AuditView,
    FlipView,
    PointView,
    RegionAsked,
    RegionView,
    RepeatedView,
    ReplayView,
    RollbackAsked,
)
from privacy_gateway.rdp import NANO
from privacy_gateway.views import ProposalView, RevisionView

router = APIRouter(prefix="/v1/datasets/{dataset_id}/policies", tags=["policies"])

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Last = Annotated[int, Query(ge=1, le=life.MOST_DECISIONS)]
Form = Annotated[Literal["json", "table", "svg"], Query(alias="format")]


@router.post("/audit")
def audit(
    services: Outside,
    examiners: Examiners,
    caller: OwnerOrAuditor,
    dataset_id: str,
    last: Last = 1000,
) -> AuditView:
    """Ask the last decisions again, of the revisions that made them, byte for byte."""
    with services.database.read() as session:
        scope.dataset(session, caller, dataset_id)
        rows = life.recent(session, dataset_id, last=last)
        named = {row["revision_id"] for row in rows if row["revision_id"]}
        known = life.by_id(session, named)
        libraries = archive.kept(session, {row["library_digest"] for row in rows})
    engine = examined.embedded(examiners)
    found = replay.repeat(engine, known, rows, libraries)
    other = [
        RepeatedView(decision=one.decision_id, standing=one.standing, detail=one.detail)
        for one in found
        if one.standing != "same"
    ]
    different = sum(one.standing == "different" for one in other)
    return AuditView(
        ok=different == 0,
        engine=f"{engine.name} {engine.version}",
        decisions=len(found),
        same=len(found) - len(other),
        different=different,
        unrepeatable=len(other) - different,
        findings=other,
    )


@router.post(
    "/{number}/rollback",
    status_code=201,
    responses={202: {"model": ProposalView, "description": "Waits for a second person"}},
)
def rollback(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    dataset_id: str,
    number: Number,
    body: Annotated[RollbackAsked, json_body(RollbackAsked)],
    response: Response,
) -> RevisionView | ProposalView:
    """Go back to a superseded text: a new revision with it, examined like any, decides at once.

    Where it is looser and the population asks for a second person: 202 and a proposal.
    """
    with services.database.read() as session:
        scope.own_dataset(session, caller, dataset_id)
        old = revisions.get(session, dataset_id=dataset_id, number=number)
    found = activation.examine(examiners, old, floor=examined.floor(services))
    activation.refuse_unless_passed(found)
    with services.database.unit_of_work() as session:
        made = life.old_text_again(
            session,
            dataset_id=dataset_id,
            number=number,
            reason=body.reason,
            actor_id=caller.id,
            now=services.clock(),
            ids=services.new_id,
        )
    return activating.activate(services, examiners, caller, made, found, response)


@router.post("/{number}/shadow")
def shadow(services: Outside, caller: Owner, dataset_id: str, number: Number) -> RevisionView:
    """Let a tested draft run in the active one's shadow; `replay?since=shadow` tells of it."""
    with services.database.unit_of_work() as session:
        scope.own_dataset(session, caller, dataset_id)
        found = life.shadow(session, dataset_id=dataset_id, number=number, now=services.clock())
    return examined.plain(found)


@router.get("/{number}/replay")
@router.post("/{number}/replay", include_in_schema=False)
def what_if(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    dataset_id: str,
    number: Number,
    last: Last = 1000,
    since: Annotated[Literal["shadow"] | None, Query()] = None,
) -> ReplayView:
    """Which of the last decisions a revision would make otherwise, newly allowed first."""
    with services.database.read() as session:
        scope.own_dataset(session, caller, dataset_id)
        revision = revisions.get(session, dataset_id=dataset_id, number=number)
        start = life.shadowed_since(session, revision) if since else None
        if since and start is None:
            raise Refused("conflict", f"revision {number} was never in the shadow")
        rows = [_parsed(row) for row in life.recent(session, dataset_id, last=last, since=start)]
    activation.refuse_unclean(examiners, revision)
    flips = replay.flips(examined.embedded(examiners), revision, rows)
    counts = {change: sum(flip.change == change for flip in flips) for change in replay.ORDER}
    return ReplayView(
        number=number,
        decisions=len(rows),
        same=len(rows) - len(flips),
        counts=counts,
        flips=[_flip(flip) for flip in flips],
    )


@router.get("/{number}/region", response_model=RegionView)
def default_region(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    dataset_id: str,
    number: Number,
    form: Form = "json",
) -> Any:
    """The allowed region around the newest job of the data set."""
    return _region(services, examiners, caller, (dataset_id, number), RegionAsked(), form)


@router.post("/{number}/region", response_model=RegionView)
def asked_region(
    services: Outside,
    examiners: Examiners,
    caller: Owner,
    dataset_id: str,
    number: Number,
    body: Annotated[RegionAsked, json_body(RegionAsked)],
    form: Form = "json",
) -> Any:
    """Rounds × noise × cohort that a revision and the remaining budget admit now."""
    return _region(services, examiners, caller, (dataset_id, number), body, form)


def _region(
    services: Services,
    examiners: tuple[PolicyEngine, ...],
    caller: Principal,
    which: tuple[str, int],
    asked: RegionAsked,
    form: str,
) -> Response | RegionView:
    dataset_id, number = which
    with services.database.read() as session:
        clients = scope.own_dataset(session, caller, dataset_id).clients
        revision = revisions.get(session, dataset_id=dataset_id, number=number)
        asking = examined.asking(session, caller, asked.as_researcher)
        request = dryrun.request_of(session, caller, dataset_id, asked.job)
    activation.refuse_unclean(examiners, revision)
    around = regions.axes_around(request, clients)
    axes = regions.Axes(
        asked.rounds or around.rounds,
        asked.noise_multipliers or around.noise_multipliers,
        asked.clients_per_round or around.clients_per_round,
    )
    found = regions.sweep(services, examined.embedded(examiners), asking, revision, request, axes)
    if form == "table":
        return PlainTextResponse(region.table(found))
    if form == "svg":
        title = f"What revision {number} and the budget leave open"
        return Response(region.svg(found, title), media_type="image/svg+xml")
    return _region_view(number, found)


def _region_view(number: int, found: region.Region) -> RegionView:
    return RegionView(
        number=number,
        rounds=list(found.rounds),
        noise_multipliers=list(found.noise_multipliers),
        clients_per_round=list(found.clients_per_round),
        counts=found.counts(),
        points=[
            PointView(
                rounds=point.rounds,
                noise_multiplier=point.noise_multiplier,
                clients_per_round=point.clients_per_round,
                epsilon=point.epsilon,
                standing=point.standing,
                codes=list(point.codes),
            )
            for point in found.points
        ],
    )


def _flip(flip: replay.Flip) -> FlipView:
    row = flip.decision
    return FlipView(
        change=flip.change,
        decision=row["id"],
        job=row["job_id"],
        subject=row["subject_id"],
        created_at=rfc3339(from_micros(row["created_at"])),
        before=row["outcome"],
        before_code=row["code"],
        after=flip.outcome,
        after_code=flip.code,
        denials=[dict(denial) for denial in flip.denials],
        purpose=row["input"]["job"]["purpose"],
        rounds=row["input"]["job"]["rounds"],
        epsilon=row["input"]["cost"]["epsilon_nano"] / NANO,
    )


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: canonical.loads_strict(row[name].encode()) for name in ("input", "verdict")}
