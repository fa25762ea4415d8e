"""The one interface of every policy engine, and the values that pass through it.

An engine checks, tests and evaluates Rego; it never decides. What an answer means is read by
`policies.verdict` alone, so two engines cannot differ in the reading. Nothing here may raise for a
policy's fault during `evaluate`: a failure is a value, because the caller must record it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from policies.errors import Fault
from policies.library import Library
from privacy_gateway import canonical

DEADLINE_SECONDS = 0.5

Module = Literal["policy", "tests"]
State = Literal["draft", "active", "superseded"]
Stage = Literal["draft", "checked", "tested", "shadow", "active", "superseded"]
"""How far a revision has come; all but the last two are drafts that decide nothing."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable text of one dataset's policy.

    `digest` is the SHA-256 of the canonical JSON of source and tests; `number` counts from 1 within
    the dataset. A revision that is not stored (dry run of a text) has the number 0.
    """

    id: str
    dataset_id: str
    number: int
    source: str
    tests: str
    digest: str
    state: State = "draft"
    reason: str = ""
    author_id: str = ""
    created_at: datetime | None = None
    activated_at: datetime | None = None
    activated_by: str | None = None
    stage: Stage = "draft"
    library: Library | None = None
    """Which library it is asked with: the installed one, unless the past is asked again."""

    @classmethod
    def of_text(cls, source: str, tests: str = "", *, dataset_id: str = "") -> Revision:
        """A revision that lives in memory only, for checks and dry runs."""
        return cls("pol_text", dataset_id, 0, source, tests, text_digest(source, tests))


def text_digest(source: str, tests: str) -> str:
    """SHA-256 (hex) that names a policy text together with its tests."""
    return canonical.digest({"source": source, "tests": tests})


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark about a text: where (1-based line and column), what, and what to do."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    line: int = 0
    column: int = 0
    hint: str = ""
    module: Module = "policy"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.module} {self.line}:{self.column} {self.code}: {self.message}{hint}"


@dataclass(frozen=True, slots=True)
class Findings:
    """All remarks about one revision, errors and warnings, in order of place."""

    items: tuple[Finding, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The remarks that keep a revision from activation."""
        return tuple(item for item in self.items if item.severity == "error")

    @property
    def clean(self) -> bool:
        """True when nothing forbids activation."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class TestResult:
    """One `test_*` rule: `detail` says why it did not pass."""

    __test__ = False
    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TestReport:
    """Every `test_*` rule of a revision, on one engine."""

    __test__ = False
    results: tuple[TestResult, ...] = ()

    @property
    def failed(self) -> tuple[TestResult, ...]:
        """The tests that did not pass."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def passed(self) -> bool:
        """True when there are tests and all of them pass."""
        return bool(self.results) and not self.failed


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The raw answer of one evaluation, or the fault that stands in its place.

    `answer` is parsed JSON (the value of `data.<package>.decision`) and means nothing before
    `policies.verdict.decode` has read it.
    """

    answer: Any = None
    fault: Fault | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine can decide now."""

    ok: bool
    engine: str
    version: str
    detail: str = ""


class PolicyEngine(Protocol):
    """What the gateway needs of Rego; every implementation passes the same tests."""

    @property
    def name(self) -> str:
        """Short stable name, recorded with each decision."""
        ...

    @property
    def version(self) -> str:
        """Version of the engine that decides."""
        ...

    def check(self, source: str, tests: str = "") -> Findings:
        """Read both texts and say what is wrong with them.

        Raises:
            EngineFailed: the engine itself could not work.
        """
        ...

    def test(self, source: str, tests: str) -> TestReport:
        """Run every `test_*` rule of `tests` (and of `source`).

        Raises:
            EngineFailed: the engine itself could not work.
        """
        ...

    def evaluate(
        self, revision: Revision, canonical_input: bytes, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Evaluation:
        """Ask `data.<package>.decision` of the revision; never raises for engine trouble."""
        ...

    def trial(self) -> AbstractContextManager[PolicyEngine]:
        """The engine for texts that do not decide: drafts, probes, what-if questions."""
        ...

    def ready(self, revision: Revision, deadline_seconds: float) -> None:
        """Wait until the engine can be asked about a revision that is about to decide.

        Raises:
            EngineFailed: not before the deadline.
        """
        ...

    def health(self) -> Health:
        """Whether the engine can decide now; never raises."""
        ...

    def close(self) -> None:
        """Give back processes and connections; the engine answers `unreachable` afterwards."""
        ...
