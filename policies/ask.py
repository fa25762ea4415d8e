"""One question, one decision, always: the only place where an engine's answer becomes a verdict.

`ask` never raises for engine trouble and never lets trouble pass: whatever cannot be read as a
decision is a denial that can be recorded, with the code and fault that say why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from policies import reads
from policies.engine import DEADLINE_SECONDS, Evaluation, PolicyEngine, Revision
from policies.errors import Fault, Undecided, code_of
from policies.library import library
from policies.question import Question
from policies.verdict import Verdict, decode, denied
from privacy_gateway import canonical


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with everything needed to record it and to repeat it.

    `code` is the public refusal code (None for allow and needs_approval), `fault` and `detail` say
    what went wrong inside (for the owner, never the researcher). `digest` names the decision in
    ledger entries.
    """

    verdict: Verdict
    code: str | None
    fault: Fault | None
    detail: str
    input_bytes: bytes
    input_digest: str
    engine: str
    engine_version: str
    library_digest: str
    latency_us: int
    revision_id: str | None
    revision_number: int | None
    revision_digest: str | None

    @property
    def allowed(self) -> bool:
        """True only for a plain allow."""
        return self.verdict.allowed

    @property
    def digest(self) -> str:
        """SHA-256 over verdict, input, policy and library; equal on equal engines."""
        parts = canonical.members(self._facts())
        return canonical.digest_of(canonical.joined({**parts, "verdict": self._verdict()}))

    def _verdict(self) -> bytes:
        return b'"verdict":' + self.verdict.canonical()

    def _facts(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "fault": self.fault,
            "input": self.input_digest,
            "policy": self.revision_digest,
            "library": self.library_digest,
        }


def ask(
    engine: PolicyEngine,
    revision: Revision | None,
    question: Question,
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    stopwatch: Callable[[], int] = time.perf_counter_ns,
) -> Decision:
    """Decide a question by a revision; deny when there is none or the engine is in trouble.

    Args:
        engine: who evaluates.
        revision: the active revision of the data set, or None when it has none.
        question: from `policies.question.build`.
        deadline_seconds: after this the answer is a denial.
        stopwatch: monotonic nanoseconds, injected for tests.
    """
    started = stopwatch()
    verdict, fault, detail = _decide(engine, revision, question.canonical, deadline_seconds)
    return Decision(
        verdict=verdict,
        code=_public_code(verdict, fault),
        fault=fault,
        detail=detail,
        input_bytes=question.canonical,
        input_digest=question.digest,
        engine=engine.name,
        engine_version=engine.version,
        library_digest=library().digest,
        latency_us=max(0, stopwatch() - started) // 1000,
        revision_id=revision.id if revision else None,
        revision_number=revision.number if revision else None,
        revision_digest=revision.digest if revision else None,
    )


def carried(
    decision: Decision, revision: Revision, first: Question, second: Question
) -> Decision | None:
    """The decision of a second question by the first's verdict, where they cannot differ.

    None where the engine has to be asked: another revision, a fault, or a question that differs
    in something the policy's text can see (`policies.reads`).
    """
    if decision.fault is not None or decision.revision_id != revision.id:
        return None
    if not reads.same(revision.source, first.document, second.document):
        return None
    return replace(decision, input_bytes=second.canonical, input_digest=second.digest)


def judge(evaluation: Evaluation) -> tuple[Verdict, Fault | None, str]:
    """Read an evaluation; a fault or an unreadable answer is a denial."""
    fault, detail = evaluation.fault, evaluation.detail
    if fault is None:
        try:
            return decode(evaluation.answer), None, ""
        except Undecided as undecided:
            fault, detail = undecided.fault, undecided.detail
    sentence = _NO_POLICY if fault is Fault.NO_POLICY else _SENTENCES[code_of(fault)]
    return denied(code_of(fault), sentence), fault, detail


def _decide(
    engine: PolicyEngine, revision: Revision | None, canonical_input: bytes, seconds: float
) -> tuple[Verdict, Fault | None, str]:
    if revision is None:
        return judge(Evaluation(fault=Fault.NO_POLICY, detail="no revision is active"))
    try:
        return judge(engine.evaluate(revision, canonical_input, seconds))
    except Exception as error:  # whatever a broken engine raises, it must deny
        detail = f"{type(error).__name__}: {error}"
        return judge(Evaluation(fault=Fault.INTERNAL, detail=detail))


def _public_code(verdict: Verdict, fault: Fault | None) -> str | None:
    if fault is not None:
        return code_of(fault)
    return "policy_denied" if verdict.outcome == "deny" else None


_NO_POLICY = "The data set has no active policy; nothing is admitted."
_SENTENCES = {
    "policy_unavailable": "The data owner's policy could not be asked; nothing is admitted.",
    "policy_error": "The data owner's policy gave no readable decision; nothing is admitted.",
}
