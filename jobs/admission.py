"""Admission: from a request to a reserved job, or to a recorded refusal, in one transaction.

The policy is asked and the price computed before any lock. Then one writing transaction
(`jobs.settle`) takes the idempotency key, locks the budget, compares the versions everything was
decided on, judges again what moved, reserves, and writes job, events and outbox row; alone, or in
a group with others where a group-commit writer is set up. Nothing is published inside; the caller
relays the outbox after the commit. A refusal records its decision and a `deny` entry and reserves
nothing. This module must never answer before the commit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from jobs import counter, initial, judgement, keys, runnable, situation
from jobs.attempt import Attempt, Outcome, Settled
from jobs.principal import Principal
from jobs.refusal import refusal_of
from jobs.services import Services
from jobs.settle import settle
from kit import prepared
from kit.group import GroupCommit
from privacy_gateway import canonical
from privacy_gateway.schemas import JobRequest

__all__ = ["Outcome", "submit", "with_writer"]


def submit(
    services: Services, principal: Principal, request: JobRequest, idempotency_key: str | None
) -> Outcome:
    """Admit a job.

    Args:
        services: the outside world.
        principal: the researcher.
        request: what she asks for.
        idempotency_key: her name for this attempt, kept for ever once a job stands for it; a
            refused attempt does not use it up.

    Returns:
        The job, reserved and queued (or waiting for people); the same one for a repeated request.

    Raises:
        Refused: `policy_unavailable`, `policy_error`, `frozen`, `policy_denied`,
            `budget_exceeded`, `quota_exceeded` or `floor`, recorded, with facts `rules`, `price`,
            `left`, `counter_offer`, `decision`; `idempotency_mismatch`; `not_found`, `forbidden`,
            `unsupported`, `invalid_request`, `model_refused` and price refusals, not recorded;
            `unavailable` where a group-commit writer is full or could not commit.
    """
    principal.require("researcher")
    keys.check(idempotency_key)
    runnable.refuse(request)
    body = request.model_dump(mode="json")
    text = canonical.dumps(body, floats=True)
    request_hash = canonical.digest_of(text)
    with services.database.read() as session:
        mine, dataset = (principal.id, idempotency_key), request.dataset
        known, row = prepared.ask(
            session, keys.looking_up(mine), situation.reading(principal, dataset)
        )
        if known is not None:
            return keys.outcome_of(session, mine, request_hash, known)
        seen = situation.of_row(session, principal, dataset, row, project=request.project)
        initial.refuse_unknown(session, principal, request)
    job_id = services.new_id("job")
    attempt = Attempt(
        principal=principal,
        request=request,
        request_text=text.decode(),
        request_hash=request_hash,
        key=idempotency_key,
        job_id=job_id,
        first=judgement.judge(
            services,
            principal,
            seen,
            judgement.propose(services.settings, seen, request),
            request_id=job_id,
            now=services.clock(),
        ),
    )
    settled = committed(services, attempt)
    if isinstance(settled, Outcome):
        return settled
    offer = counter.offer(services, principal, settled.judgement)
    raise refusal_of(settled.judgement, decision_id=settled.decision_id, offer=offer)


def with_writer(services: Services) -> Services:
    """The same services with a group-commit writer, as the settings say; closed with them."""
    settings = services.settings
    if not settings.group_commit:
        return services
    writer = GroupCommit[Attempt, Settled](
        services.database,
        partial(settle, services),
        largest=settings.group_commit_largest,
        most_waiting=settings.group_commit_waiting,
    )
    return replace(services, writer=writer)


def committed(services: Services, attempt: Attempt) -> Settled:
    """The answer to a judged attempt after its commit: in a group, or in a transaction of its own.

    Raises:
        Refused: what `jobs.settle` gave for this attempt alone.
    """
    if services.writer is not None:
        return services.writer.submit(attempt)
    database = services.database
    with database.in_turn(attempt.population_id), database.unit_of_work() as session:
        (answer,) = settle(services, session, [attempt])
        if isinstance(answer, Exception):
            raise answer
    return answer
