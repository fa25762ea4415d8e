"""What the gateway answers about policies tried out, gone back to and held against their past."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from privacy_gateway.schemas import Identifier, JobRequest, Name, Strict, View

_AXIS = Field(strict=False, min_length=1, max_length=50)


class CoverageView(View):
    """What the owner's tests reach of a policy: lines from 1, and rules never wholly reached."""

    percent: int
    covered: list[int]
    missed: list[int]
    rules: list[str]


class RollbackAsked(Strict):
    """Body of `POST /v1/datasets/{id}/policies/{n}/rollback`."""

    reason: Annotated[str, Field(min_length=1, max_length=2000)]


class FlipView(View):
    """A stored decision that a revision would make otherwise."""

    change: Literal["newly_allowed", "newly_needs_approval", "newly_denied", "changed"]
    decision: str
    job: str | None
    subject: str
    created_at: str
    before: Literal["allow", "needs_approval", "deny"]
    before_code: str | None
    after: Literal["allow", "needs_approval", "deny"]
    after_code: str | None
    denials: list[dict[str, Any]]
    purpose: str
    rounds: int
    epsilon: float


class ReplayView(View):
    """What a revision would have changed among the last decisions, newly allowed first."""

    number: int
    decisions: int
    same: int
    counts: dict[str, int]
    flips: list[FlipView]


class RepeatedView(View):
    """A stored decision that came out otherwise when asked again, or that cannot be asked."""

    decision: str
    standing: Literal["different", "unrepeatable"]
    detail: str


class AuditView(View):
    """Stored decisions asked again of the revisions that made them; `ok` when none differs."""

    ok: bool
    engine: str
    decisions: int
    same: int
    different: int
    unrepeatable: int
    findings: list[RepeatedView]


class RegionAsked(Strict):
    """Body of `POST /v1/datasets/{id}/policies/{n}/region`: the grid around a request.

    `job` is a request or a past job's id; the data set's newest job by default. An axis that is
    left out is made around the request.
    """

    job: JobRequest | Identifier | None = None
    as_researcher: Name | None = None
    rounds: Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], _AXIS] | None = None
    noise_multipliers: (
        Annotated[tuple[Annotated[float, Field(ge=0.01, le=10_000)], ...], _AXIS] | None
    ) = None
    clients_per_round: (
        Annotated[tuple[Annotated[int, Field(ge=1, le=10**9)], ...], _AXIS] | None
    ) = None


class PointView(View):
    """One request of a grid and how it would stand now."""

    rounds: int
    noise_multiplier: float
    clients_per_round: int
    epsilon: float | None
    standing: Literal["allowed", "needs_approval", "denied", "over_budget", "impossible"]
    codes: list[str]


class RegionView(View):
    """What a revision and the remaining budget leave open, over a grid."""

    number: int
    rounds: list[int]
    noise_multipliers: list[float]
    clients_per_round: list[int]
    counts: dict[str, int]
    points: list[PointView]
