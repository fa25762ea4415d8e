"""Whether a revision may begin to decide: checks, its own tests, probes, and agreement of engines.

All of it happens before anything is changed, and all problems are told at once. This module must
never touch a database, so that a slow examination never holds the writer's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from policies import quorum
from policies.ask import judge
from policies.coverage import Coverage, measure
from policies.engine import (
    DEADLINE_SECONDS,
    Evaluation,
    Findings,
    PolicyEngine,
    Revision,
    TestReport,
)
from policies.errors import EngineFailed, Fault, code_of
from policies.probes import Floor, Probe, must_deny, no_floor, samples
from policies.text import TextRefused
from policies.verdict import Verdict
from privacy_gateway.errors import FieldError, Refused

MOST_PROBLEMS = 50

Answer = tuple[Verdict, Fault | None, str]
"""What an engine said about a probe: the verdict, what went wrong, and how."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What every engine said about one text; `problems` is empty when it may become active."""

    digest: str
    findings: Findings
    tests: dict[str, TestReport]
    problems: tuple[FieldError, ...]
    coverage: Coverage | None = None

    @property
    def passed(self) -> bool:
        """True when nothing stands against activation."""
        return not self.problems


def examine(
    engines: Sequence[PolicyEngine], revision: Revision, *, floor: Floor = no_floor
) -> Examination:
    """Check, test and probe a revision on every configured engine.

    Args:
        engines: all configured engines; one of them must be the embedded one, which alone reads the
            language profile.
        revision: what is to be activated.
        floor: what the gateway refuses whatever the policy says (`probes.floor_of`).

    Raises:
        Refused: `policy_unavailable` when an engine does not work.
    """
    try:
        findings = _findings(engines, revision)
        if not findings.clean:
            return Examination(revision.digest, findings, {}, tuple(_of_findings(findings)))
        reports = {engine.name: engine.test(revision.source, revision.tests) for engine in engines}
        with ExitStack() as trials:
            tried = [trials.enter_context(engine.trial()) for engine in engines]
            problems = [*_of_tests(reports), *_of_probes(tried, revision, floor)]
    except EngineFailed as failure:
        detail = f"the revision was not examined: {failure}"
        raise Refused("policy_unavailable", detail) from failure
    reached = _coverage(engines, revision)
    problems = problems[:MOST_PROBLEMS]
    return Examination(revision.digest, findings, reports, tuple(problems), reached)


def _coverage(engines: Sequence[PolicyEngine], revision: Revision) -> Coverage | None:
    """What the owner's tests reach; told for its own sake, so nothing fails for want of it."""
    for engine in engines:
        try:
            found = measure(engine, revision.source, revision.tests)
        except (EngineFailed, TextRefused):
            return None
        if found is not None:
            return found
    return None


def refuse_unclean(engines: Sequence[PolicyEngine], revision: Revision) -> None:
    """Raise unless a text keeps the language profile; to be called before a draft is ever run.

    A server would happily run `http.send` for a dry run.

    Raises:
        Refused: `policy_refused` with every finding; `policy_unavailable` when an engine does not
            work.
    """
    try:
        findings = _findings(engines, revision)
    except EngineFailed as failure:
        detail = f"the policy was not checked: {failure}"
        raise Refused("policy_unavailable", detail) from failure
    problems = tuple(_of_findings(findings))
    refuse_unless_passed(Examination(revision.digest, findings, {}, problems))


def refuse_unless_passed(examination: Examination) -> None:
    """Raise with every problem.

    Raises:
        Refused: `policy_refused`.
    """
    if examination.passed:
        return
    first = examination.problems[0]
    raise Refused(
        "policy_refused",
        f"the policy was refused: {first.message}",
        errors=examination.problems,
        problems=len(examination.problems),
    )


def _findings(engines: Sequence[PolicyEngine], revision: Revision) -> Findings:
    if not any(engine.name == "embedded" for engine in engines):
        raise EngineFailed(Fault.UNREACHABLE, "the language profile needs the embedded engine")
    items = {
        item: None
        for engine in engines
        for item in engine.check(revision.source, revision.tests).items
    }
    return Findings(tuple(items))


def _of_findings(findings: Findings) -> Iterator[FieldError]:
    for item in findings.errors:
        field = "source" if item.module == "policy" else "tests"
        hint = f" ({item.hint})" if item.hint else ""
        place = f"line {item.line}, column {item.column}"
        yield FieldError(field, f"{place}: {item.code}: {item.message}{hint}")


def _of_tests(reports: dict[str, TestReport]) -> Iterator[FieldError]:
    for engine, report in reports.items():
        if not report.results:
            yield FieldError("tests", f"there is no test_* rule ({engine})")
        for result in report.failed:
            reason = result.detail.splitlines()[-1] if result.detail else "the rule is not true"
            yield FieldError("tests", f"{result.name} fails ({engine}): {reason}")


def _of_probes(
    engines: Sequence[PolicyEngine], revision: Revision, floor: Floor
) -> list[FieldError]:
    problems: dict[FieldError, None] = {}
    try:
        for probe in must_deny(revision.source):
            answers = [_answer(engine, revision, probe) for engine in engines]
            problems |= dict.fromkeys(_disagreement(engines, answers, probe))
            refused = floor(probe.question.document)
            if not refused and any(verdict.outcome != "deny" for verdict, *_ in answers):
                problems[_let_through(probe, answers)] = None
        for probe in samples(revision.source):
            answers = [_answer(engine, revision, probe) for engine in engines]
            problems |= dict.fromkeys(_disagreement(engines, answers, probe))
            problems |= dict.fromkeys(_undecided(engines, answers, probe))
            if unmet := quorum.said_by(answers[0][0]):
                problems[FieldError("source", unmet, probe.name)] = None
    except TextRefused as refused_text:
        problems[FieldError("source", refused_text.message)] = None
    return _first_of_each(problems)


def _answer(engine: PolicyEngine, revision: Revision, probe: Probe) -> Answer:
    """A verdict, where an engine that gives no answer is a failure and no denial."""
    verdict, fault, detail = judge(_evaluated(engine, revision, probe))
    if fault is Fault.TIMEOUT:  # a busy machine is late once, a policy that hangs always
        verdict, fault, detail = judge(_evaluated(engine, revision, probe))
    if fault is not None and code_of(fault) == "policy_unavailable" and fault is not Fault.TIMEOUT:
        raise EngineFailed(fault, f"{engine.name}: {detail}")
    return verdict, fault, detail


def _evaluated(engine: PolicyEngine, revision: Revision, probe: Probe) -> Evaluation:
    return engine.evaluate(revision, probe.question.canonical, DEADLINE_SECONDS)


def _undecided(
    engines: Sequence[PolicyEngine], answers: list[Answer], probe: Probe
) -> Iterator[FieldError]:
    """An ordinary job must be decided, one way or the other; else it would be a `policy_error`."""
    for engine, (_, fault, detail) in zip(engines, answers, strict=True):
        if fault is None or code_of(fault) != "policy_error":
            continue
        hint = f"; {_UNDEFINED_HINT}" if fault is Fault.UNDEFINED else ""
        message = f"no readable decision on an ordinary job ({engine.name}): {detail}{hint}"
        yield FieldError("source", message, probe.name)


_UNDEFINED_HINT = (
    "a rule of the library that does not apply is undefined and makes a set such as "
    "{approvals.by_above(…)} undefined with it: write `approve contains approvals.by_above(…)` "
    "and give `approve` to the answer"
)


def _first_of_each(problems: Iterable[FieldError]) -> list[FieldError]:
    """One example of each message: a fault that every sample meets is told once."""
    first: dict[tuple[str, str], FieldError] = {}
    for problem in problems:
        first.setdefault((problem.field, problem.message), problem)
    return list(first.values())


def _let_through(probe: Probe, answers: list[Answer]) -> FieldError:
    outcome = next(verdict.outcome for verdict, *_ in answers if verdict.outcome != "deny")
    purpose = probe.question.document["job"]["purpose"]
    message = f"probe {probe.name} (purpose {purpose!r}) must be denied, the policy says {outcome}"
    return FieldError("source", message)


def _disagreement(
    engines: Sequence[PolicyEngine], answers: list[Answer], probe: Probe
) -> Iterator[FieldError]:
    first = answers[0][0].as_dict()
    for engine, (verdict, *_) in zip(engines, answers, strict=True):
        if verdict.as_dict() != first:
            names = f"{engines[0].name} and {engine.name}"
            yield FieldError("source", f"{names} answer {probe.name} differently")
