"""Quotes: what a job would cost and whether it would pass, without any side effect."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from gateway.body import json_body
from gateway.deps import Outside, Pricer
from jobs import inverse, quoting, sweep_quotes
from privacy_gateway.schemas import (
    InverseAnswer,
    InverseRequest,
    Quote,
    QuoteRequest,
    SweepQuote,
    SweepRequest,
)

router = APIRouter(prefix="/v1/quotes", tags=["quotes"])


@router.post("")
def quote(
    services: Outside, caller: Pricer, body: Annotated[QuoteRequest, json_body(QuoteRequest)]
) -> Quote:
    """Price, verdict, and the nearest job that would pass; asks nobody and spends nothing."""
    return quoting.quote(services, caller, body.job)


@router.post("/inverse")
def solve(
    services: Outside, caller: Pricer, body: Annotated[InverseRequest, json_body(InverseRequest)]
) -> InverseAnswer:
    """The most rounds, the least noise or the largest cohort that is admitted now."""
    return inverse.solve(services, caller, body.job, body.solve_for)


@router.post("/sweep")
def quote_sweep(
    services: Outside, caller: Pricer, body: Annotated[SweepRequest, json_body(SweepRequest)]
) -> SweepQuote:
    """Price and verdict of several runs as one: each after those before it, and the total."""
    return sweep_quotes.quote(services, caller, body.jobs)
