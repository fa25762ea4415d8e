"""Sweeps: several runs admitted together or not at all."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from gateway.body import json_body
from gateway.deps import Anybody, Canceller, Outside, Researcher
from jobs import sweeps
from privacy_gateway.schemas import SweepRequest, SweepView

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])


@router.post("", status_code=202)
def submit(
    services: Outside,
    caller: Researcher,
    body: Annotated[SweepRequest, json_body(SweepRequest)],
    request: Request,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> SweepView:
    """Admit every job of a sweep in one transaction, or none of them.

    A refusal names the member (`member`, from 0) and its fields as `jobs[i].…`. The same
    `Idempotency-Key` with the same bodies answers the same sweep.
    """
    sweep, replayed = sweeps.submit(services, caller, body.jobs, idempotency_key)
    request.app.state.nudge()
    response.headers["Location"] = f"/v1/sweeps/{sweep.id}"
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return sweep


@router.get("/{sweep_id}")
def show(services: Outside, caller: Anybody, sweep_id: str) -> SweepView:
    """One sweep with its jobs; `over` when all of them have ended."""
    return sweeps.find(services, caller, sweep_id)


@router.post("/{sweep_id}/cancel")
def cancel(services: Outside, caller: Canceller, sweep_id: str) -> SweepView:
    """End every job of the sweep that still goes on; what is not charged goes back."""
    return sweeps.cancel(services, caller, sweep_id)
