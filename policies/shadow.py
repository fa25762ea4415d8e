"""A second engine beside the first: where they differ, nothing is admitted.

Two independent implementations of Rego are asked the same question. Equal answers are the first
engine's answer; anything else is a fault that denies, is recorded with both answers for the owner,
and raises the alarm. This module must never prefer one of two answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from policies.ask import judge
from policies.engine import (
    DEADLINE_SECONDS,
    Evaluation,
    Findings,
    Health,
    PolicyEngine,
    Revision,
    TestReport,
)
from policies.errors import Fault
from privacy_gateway import canonical

Alarm = Callable[[Revision, str], None]
_MOST_DETAIL = 2_000


class ShadowEngine:
    """Decides by `first`, provided that `second` decides the same.

    Args:
        first: whose name and version are recorded.
        second: who is compared.
        alarm: told of each difference; the log by default.
    """

    def __init__(
        self, first: PolicyEngine, second: PolicyEngine, *, alarm: Alarm | None = None
    ) -> None:
        self._first, self._second = first, second
        self._alarm = alarm or _to_the_log

    @property
    def name(self) -> str:
        """The deciding engine's."""
        return self._first.name

    @property
    def version(self) -> str:
        """Of both engines."""
        return f"{self._first.version} + {self._second.version}"[:64]

    def check(self, source: str, tests: str = "") -> Findings:
        """What either finds.

        Raises:
            EngineFailed: one of them does not work.
        """
        found = (engine.check(source, tests).items for engine in self._both())
        return Findings(tuple({item: None for items in found for item in items}))

    def test(self, source: str, tests: str) -> TestReport:
        """Every test on both.

        Raises:
            EngineFailed: one of them does not work.
        """
        reports = [engine.test(source, tests).results for engine in self._both()]
        return TestReport(tuple(result for results in reports for result in results))

    def evaluate(
        self, revision: Revision, canonical_input: bytes, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Evaluation:
        """The first engine's answer if the second gives the same; else a fault."""
        ours, theirs = (
            engine.evaluate(revision, canonical_input, deadline_seconds) for engine in self._both()
        )
        for evaluation in (ours, theirs):
            if evaluation.fault is Fault.UNREACHABLE or evaluation.fault is Fault.BUSY:
                return evaluation
        (verdict, fault, _), (other, other_fault, _) = judge(ours), judge(theirs)
        if (verdict, fault) == (other, other_fault):
            return ours
        names = self._first.name, self._second.name
        answers = (verdict.as_dict(), fault), (other.as_dict(), other_fault)
        detail = " / ".join(
            f"{name}: {fault or canonical.dumps(answer, floats=True).decode()}"
            for name, (answer, fault) in zip(names, answers, strict=True)
        )[:_MOST_DETAIL]
        self._alarm(revision, detail)
        return Evaluation(fault=Fault.DISAGREEMENT, detail=detail)

    @contextmanager
    def trial(self) -> Iterator[PolicyEngine]:
        """Both, on trial; there a difference is a finding and no alarm."""
        with self._first.trial() as first, self._second.trial() as second:
            yield ShadowEngine(first, second, alarm=_silent)

    def ready(self, revision: Revision, deadline_seconds: float) -> None:
        """Wait for both.

        Raises:
            EngineFailed: one is not ready in time.
        """
        for engine in self._both():
            engine.ready(revision, deadline_seconds)

    def health(self) -> Health:
        """Well only if both are."""
        for engine in self._both():
            health = engine.health()
            if not health.ok:
                return Health(False, self.name, self.version, f"{health.engine}: {health.detail}")
        return Health(True, self.name, self.version)

    def close(self) -> None:
        """Close both."""
        for engine in self._both():
            engine.close()

    def _both(self) -> tuple[PolicyEngine, PolicyEngine]:
        return self._first, self._second


def _silent(_revision: Revision, _detail: str) -> None:
    """No alarm."""


def _to_the_log(revision: Revision, detail: str) -> None:
    structlog.get_logger(__name__).error(
        "policy_engines_disagree",
        dataset=revision.dataset_id,
        revision=revision.number,
        digest=revision.digest,
        detail=detail,
    )
