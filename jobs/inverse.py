"""Inverse questions: the most rounds, least noise or largest cohort that would be admitted now.

The answer satisfies budget, quota, floors and policy together, rounded towards privacy: it is
admitted, one step further is refused. Asking changes nothing and reserves nothing.
"""

from __future__ import annotations

from accounting.mechanism import MAX_ROUNDS, MIN_NOISE
from jobs import initial, runnable, situation
from jobs.principal import Principal
from jobs.search import Field, least_change, turned
from jobs.services import Services
from jobs.situation import Situation
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import InverseAnswer, JobRequest, SolveFor


def solve(
    services: Services, principal: Principal, request: JobRequest, solve_for: SolveFor
) -> InverseAnswer:
    """Solve a request for one of its numbers.

    Args:
        services: the outside world.
        principal: who asks; quotas and policy depend on it.
        request: the other numbers; the one that is solved for is ignored.
        solve_for: `rounds` (most), `noise_multiplier` (least) or `clients_per_round` (largest).

    Returns:
        The value and the job with it; None for both where no value is accepted.

    Raises:
        Refused: `not_found`, `forbidden`, `unsupported`; `invalid_request` when the cohort is
            solved for without sampling, or on `initial`.
    """
    principal.require("researcher", "owner")
    runnable.refuse(request)
    if solve_for == "clients_per_round" and request.sampling == "none":
        fault = FieldError("solve_for", "without sampling every client takes part", solve_for)
        raise Refused("invalid_request", f"solve_for: {fault.message}", errors=[fault])
    with services.database.read() as session:
        known = situation.read(session, principal, request.dataset, project=request.project)
        initial.refuse_unknown(session, principal, request)
    boldest = turned(request, solve_for, _boldest(services, known, solve_for))
    judged = least_change(Field(services, principal, known, services.clock()), boldest, solve_for)
    if judged is None:
        return InverseAnswer(solve_for=solve_for, value=None, epsilon=None, job=None)
    found = judged.proposal.request
    return InverseAnswer(
        solve_for=solve_for,
        value=getattr(found, solve_for),
        epsilon=judged.proposal.epsilon_nano / NANO,
        job=found.model_dump(mode="json"),
    )


def _boldest(services: Services, known: Situation, solve_for: SolveFor) -> int | float:
    """The least private number a request may say."""
    if solve_for == "noise_multiplier":
        return max(MIN_NOISE, services.settings.minimum_noise_multiplier)
    return MAX_ROUNDS if solve_for == "rounds" else known.balance.clients
