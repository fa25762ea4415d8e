"""Stored questions, asked again: what a draft would have changed, and whether the past still holds.

Every decision is stored with the exact bytes it was asked with, so asking again is exact. `flips`
compares a draft with what was decided; `repeat` asks each old revision its old questions and must
get the same digests, byte for byte. Nothing here records anything, and a decision that cannot be
repeated (an engine that was late, a library nobody kept) is told, never passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from policies.ask import judge
from policies.engine import Evaluation, PolicyEngine, Revision
from policies.errors import Fault, code_of
from policies.library import Library, library
from policies.question import Question, for_policy
from policies.verdict import Verdict
from privacy_gateway import canonical

BATCH: Final = 200
BATCH_SECONDS: Final = 20.0
Change = Literal["newly_allowed", "newly_needs_approval", "newly_denied", "changed"]
ORDER: Final[tuple[Change, ...]] = (
    "newly_allowed",
    "newly_needs_approval",
    "newly_denied",
    "changed",
)
Standing = Literal["same", "different", "unrepeatable"]

# Faults of the moment: an engine that was down or late then says nothing about now.
OF_THE_MOMENT: Final = frozenset({"timeout", "unreachable", "busy", "crashed", "internal"})


@dataclass(frozen=True, slots=True)
class Flip:
    """A stored decision that a draft would make otherwise, with both sides' reasons."""

    change: Change
    decision: Mapping[str, Any]
    outcome: str
    code: str | None
    denials: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A stored decision, asked again of the revision that made it."""

    decision_id: str
    standing: Standing
    detail: str = ""


def decide_all(
    engine: PolicyEngine, revision: Revision, documents: Sequence[bytes]
) -> list[tuple[Verdict, Fault | None, str]]:
    """Decide many questions; whatever goes wrong with one is a denial of that one."""
    many = getattr(engine, "evaluate_many", None)
    answers: list[Evaluation] = []
    for first in range(0, len(documents), BATCH):
        part = documents[first : first + BATCH]
        if many is not None:
            answers += many(revision, part, BATCH_SECONDS)
        else:
            answers += [engine.evaluate(revision, document) for document in part]
    return [judge(answer) for answer in answers]


def flips(
    engine: PolicyEngine, draft: Revision, decisions: Iterable[Mapping[str, Any]]
) -> list[Flip]:
    """Stored decisions that `draft` would make otherwise, newly allowed first.

    Args:
        engine: who evaluates.
        draft: the revision on trial.
        decisions: rows as `revisions.decisions` gives them.
    """
    rows = list(decisions)
    questions = [
        for_policy(Question.of_document(row["input"]), draft.id, draft.number).canonical
        for row in rows
    ]
    found = []
    for row, (verdict, fault, _) in zip(rows, decide_all(engine, draft, questions), strict=True):
        change = _change(row, verdict, fault)
        if change is not None:
            code = code_of(fault) if fault is not None else _code(verdict)
            said = tuple(denial.as_dict() for denial in verdict.denials)
            found.append(Flip(change, row, verdict.outcome, code, said))
    return sorted(found, key=lambda flip: ORDER.index(flip.change))


def repeat(
    engine: PolicyEngine,
    revisions: Mapping[str, Revision],
    decisions: Iterable[Mapping[str, Any]],
    libraries: Mapping[str, Library] | None = None,
) -> list[Repeated]:
    """Ask each decision's own revision its own bytes, and compare the digests.

    Args:
        engine: who evaluates; need not be the one that decided.
        revisions: by id, every one that the decisions name.
        decisions: rows as stored, `input` as the text that was asked.
        libraries: those that earlier versions of the gateway decided with, by digest.
    """
    shared = {**(libraries or {}), library().digest: library()}
    by_text: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    found: dict[str, Repeated] = {}
    rows = list(decisions)
    for row in rows:
        reason = _unrepeatable(row, revisions, shared)
        if reason:
            found[row["id"]] = Repeated(row["id"], "unrepeatable", reason)
        else:
            by_text.setdefault((row["revision_id"], row["library_digest"]), []).append(row)
    for (revision_id, digest), asked in by_text.items():
        texts = [str(row["input"]).encode() for row in asked]
        revision = replace(revisions[revision_id], library=shared[digest])
        answers = decide_all(engine, revision, texts)
        for row, (verdict, fault, detail) in zip(asked, answers, strict=True):
            found[row["id"]] = _compared(row, verdict, fault, detail)
    return [found[row["id"]] for row in rows]


def digest_of(row: Mapping[str, Any], verdict: Verdict, fault: Fault | None) -> str:
    """The digest a decision has, as `policies.ask.Decision.digest` makes it."""
    code = code_of(fault) if fault is not None else _code(verdict)
    facts = {
        "verdict": verdict.as_dict(),
        "code": code,
        "fault": fault,
        "input": row["input_digest"],
        "policy": row["revision_digest"],
        "library": row["library_digest"],
    }
    return canonical.digest(facts, floats=True)


def _compared(
    row: Mapping[str, Any], verdict: Verdict, fault: Fault | None, detail: str
) -> Repeated:
    if str(fault) in OF_THE_MOMENT:
        return Repeated(row["id"], "unrepeatable", f"the engine failed just now: {detail}")
    if digest_of(row, verdict, fault) == row["digest"]:
        return Repeated(row["id"], "same")
    said = f"decided {row['outcome']}, now {verdict.outcome}"
    return Repeated(row["id"], "different", said if fault is None else f"{said}: {detail}")


def _unrepeatable(
    row: Mapping[str, Any], revisions: Mapping[str, Revision], libraries: Mapping[str, Library]
) -> str:
    """Why a decision cannot be asked again; empty when it can."""
    if row["revision_id"] is None or row["revision_id"] not in revisions:
        return "no revision decided it"
    if row["fault"] in OF_THE_MOMENT:
        return f"the engine failed then ({row['fault']})"
    if row["library_digest"] not in libraries:
        return "the library it was decided with is not in the archive"
    return ""  # a text that is not what it was: the digests will say so


def _change(row: Mapping[str, Any], verdict: Verdict, fault: Fault | None) -> Change | None:
    if verdict.outcome != row["outcome"]:
        named: dict[str, Change] = {
            "allow": "newly_allowed",
            "needs_approval": "newly_needs_approval",
            "deny": "newly_denied",
        }
        return named[verdict.outcome]
    now = canonical.digest(verdict.as_dict(), floats=True)
    then = canonical.digest(row["verdict"], floats=True)
    return None if now == then and fault is None else "changed"


def _code(verdict: Verdict) -> str | None:
    return "policy_denied" if verdict.outcome == "deny" else None
