"""Which requests a policy and the remaining budget admit, over a grid around one request.

Each point is judged by `judgement.judge`, as an admission would be, with the policy's answers taken
in batches before; so a point that is shown as allowed is one that would be reserved now. Nothing is
recorded or reserved, and nothing here may depend on anybody's data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Final, Self

from accounting import curve
from jobs import judgement, situation
from jobs.judgement import Judgement
from jobs.principal import Principal
from jobs.proposal import Proposal
from jobs.questions import questions_of
from jobs.services import Services
from jobs.situation import Situation
from policies.embedded import EmbeddedEngine
from policies.engine import Evaluation, Health, Revision
from policies.errors import Fault
from policies.question import Question
from policies.region import Point, Region, Standing, axis
from policies.replay import BATCH_SECONDS
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import JobRequest

MOST_POINTS: Final = 2_000
STEPS: Final = 10
# Small enough that the engine has work early, large enough that asking costs nothing.
BATCH: Final = 50
_ID: Final = "dry_region"


@dataclass(frozen=True, slots=True)
class Axes:
    """The grid, each axis rising."""

    rounds: tuple[int, ...]
    noise_multipliers: tuple[float, ...]
    clients_per_round: tuple[int, ...]


def axes_around(request: JobRequest, clients: int) -> Axes:
    """An eighth to eight times the rounds, a quarter to four times the noise, and the cohorts."""
    rounds = axis(max(1, request.rounds / 8), max(2, request.rounds * 8), STEPS)
    noise = axis(max(0.01, request.noise_multiplier / 4), request.noise_multiplier * 4, STEPS)
    cohort = axis(max(2, request.clients_per_round / 8), min(clients, 8 * _most(request)), STEPS)
    return Axes(
        _rising(round(value) for value in rounds),
        _rising(round(value, 2) for value in noise),
        _rising(min(clients, round(value)) for value in cohort),
    )


def sweep(
    services: Services,
    engine: EmbeddedEngine,
    asking: Principal,
    revision: Revision,
    request: JobRequest,
    axes: Axes | None = None,
) -> Region:
    """Judge every point of a grid under `revision` and the budget as it is now.

    Args:
        services: the outside world.
        engine: the embedded one, which answers in batches.
        asking: in whose name, with quota and history.
        revision: what would decide.
        request: what all points have in common.
        axes: the grid; around the request by default.

    Raises:
        Refused: `not_found`; `invalid_request` on `axes` for more than 2,000 points.
    """
    with services.database.read() as session:
        known = situation.read(
            session, asking, request.dataset, project=request.project, revision=revision
        )
    axes = axes or axes_around(request, known.balance.clients)
    grid = list(product(axes.clients_per_round, axes.rounds, axes.noise_multipliers))
    if not 1 <= len(grid) <= MOST_POINTS:
        raise invalid("axes", f"make 1 to {MOST_POINTS} points", value=len(grid))
    judged = _judged(services, engine, asking, known, _proposals(services, known, request, grid))
    points = tuple(
        _point(cohort, rounds, noise, found)
        for (cohort, rounds, noise), found in zip(grid, judged, strict=True)
    )
    return Region(axes.rounds, axes.noise_multipliers, axes.clients_per_round, points)


def _proposals(
    services: Services,
    known: Situation,
    request: JobRequest,
    grid: Sequence[tuple[int, int, float]],
) -> Iterator[Proposal | Refused]:
    """The priced points; a refusal where there is no such plan."""
    pricing, like = curve.IN_BULK, None
    for cohort, rounds, noise in grid:
        moved = request.model_copy(
            update={"clients_per_round": cohort, "rounds": rounds, "noise_multiplier": noise}
        )
        try:
            like = judgement.propose(services.settings, known, moved, pricing=pricing, like=like)
            yield like
        except Refused as refused:
            yield refused


def _judged(
    services: Services,
    engine: EmbeddedEngine,
    asking: Principal,
    known: Situation,
    proposals: Iterable[Proposal | Refused],
) -> list[Judgement | Refused]:
    """The judgement of each point, at one moment and under one name, so that inputs repeat."""
    now = services.clock()
    with _Asked(engine, known.revision) as asked:
        questions = questions_of(asking, known, _ID, now)
        priced = [
            (proposal, None if isinstance(proposal, Refused) else asked.add(questions(proposal)))
            for proposal in proposals
        ]
        answered = replace(services, engine=asked)
        return [
            proposal
            if isinstance(proposal, Refused)
            else judgement.judge(
                answered, asking, known, proposal, request_id=_ID, now=now, asked=question
            )
            for proposal, question in priced
        ]


def _point(cohort: int, rounds: int, noise: float, found: Judgement | Refused) -> Point:
    if isinstance(found, Refused):
        return Point(rounds, noise, cohort, None, "impossible", (found.code,))
    epsilon = found.proposal.epsilon_nano / NANO
    codes = tuple(dict.fromkeys(rule.code for rule in found.rules))
    return Point(rounds, noise, cohort, epsilon, _standing(found), codes)


def _standing(found: Judgement) -> Standing:
    """Whether policy, or only the budget, or nobody stands against it."""
    if found.decision.verdict.outcome == "deny":
        return "denied"
    if found.code in ("budget_exceeded", "quota_exceeded"):
        return "over_budget"
    if found.code is not None:
        return "denied"
    return "needs_approval" if found.decision.verdict.outcome == "needs_approval" else "allowed"


class _Asked(EmbeddedEngine):
    """An engine that is asked in batches while the next questions are made, and answers later.

    Whatever was not added before the first answer is a fault.
    """

    def __init__(self, engine: EmbeddedEngine, revision: Revision) -> None:
        self._engine, self._revision = engine, revision
        self._batch: list[bytes] = []
        self._batches: list[tuple[list[bytes], Future[list[Evaluation]]]] = []
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, question: Question) -> Question:
        """Have a question asked; answered by `evaluate` once all have been added."""
        self._batch.append(question.canonical)
        if len(self._batch) == BATCH:
            self._send()
        return question

    @cached_property
    def _answers(self) -> Mapping[bytes, Evaluation]:
        self._send()
        return {
            document: answer
            for documents, answers in self._batches
            for document, answer in zip(documents, answers.result(), strict=True)
        }

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        answers = self._thread.submit(
            self._engine.evaluate_many, self._revision, batch, BATCH_SECONDS
        )
        self._batches.append((batch, answers))

    def evaluate(
        self, revision: Revision, canonical_input: bytes, deadline_seconds: float = 0.0
    ) -> Evaluation:
        """The answer of then."""
        return self._answers.get(canonical_input) or Evaluation(
            fault=Fault.INTERNAL, detail="this question was not asked"
        )

    def health(self) -> Health:
        """It needs nothing."""
        return Health(True, self.name, self.version)

    def close(self) -> None:
        """It holds nothing."""


def _most(request: JobRequest) -> int:
    return max(1, request.clients_per_round)


def _rising(values: Any) -> tuple[Any, ...]:
    return tuple(sorted(set(values)))
