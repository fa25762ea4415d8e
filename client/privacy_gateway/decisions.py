"""The decision log beside the ledger: did the policy allow what the entries charge?

An entry names its decision by id and digest; the digest covers verdict, question, policy and
library. So a decision log, one decision a line as `/v1/decisions` shows it, is recomputed decision
by decision and matched entry by entry. It must never believe a digest that a decision states.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from privacy_gateway import canonical, questioned, rdp
from privacy_gateway.prices import Finding

# Kinds that a policy must have allowed; a denied request may have been allowed by its policy.
_ALLOWING: Final = ("allow", "needs_approval")
_DECIDED: Final = ("reserve", "charge")
_ABOUT: Final = ("researcher", "data set", "policy")
_DIGESTED: Final = ("verdict", "code", "fault")


class _Decision(NamedTuple):
    """What an entry is compared with; `flaw` says what is wrong with the decision itself."""

    digest: str
    outcome: str
    subject: str
    dataset: str
    policy: str
    public: bool
    plan: questioned.Plan | None
    flaw: str | None


class Decisions:
    """A decision log, read whole; a few hundred bytes a decision.

    Args:
        lines: JSON lines, one decision each.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._known: dict[str, _Decision] = {}
        self.unreadable: list[int] = []
        self.matched = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._read(number, line)

    def findings(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        """Whether the entry's decision is there, is the one named, and allows the entry."""
        kind, facts = leaf["kind"], leaf.get("facts") or {}
        name = facts.get("decision_id")
        if name is None:
            # What is left of a failed job is charged without asking anybody, and says so.
            if kind == "reserve" or (kind == "charge" and "reason" not in facts):
                yield "undecided", f"this {kind} of job {leaf['job']} names no decision"
            return
        decision = self._known.get(name)
        if decision is None:
            yield "undecided", f"decision {name} is not in the decision log"
            return
        flaw = decision.flaw or _difference(decision, leaf, facts)
        if flaw is not None:
            yield "decision", f"decision {name} {flaw}"
            return
        self.matched += 1

    def _read(self, number: int, line: bytes) -> None:
        try:
            form = json.loads(line)
            decision, name = _decision(form), form["id"]
        except (AttributeError, ValueError, LookupError, TypeError, RecursionError):
            self.unreadable.append(number)
            return
        before = self._known.get(name)
        if before is not None and before != decision:
            decision = before._replace(flaw="stands in the log twice, in two versions")
        self._known[name] = decision


def _decision(form: Mapping[str, Any]) -> _Decision:
    """A decision's facts, its digests recomputed."""
    question = form["input"]
    asked = canonical.digest(question, floats=True)
    made = canonical.digest(
        {name: form[name] for name in _DIGESTED}
        | {
            "input": asked,
            "policy": form["revision_digest"],
            "library": form["library_digest"],
        },
        floats=True,
    )
    flaw = None
    if asked != form["input_digest"]:
        flaw = "has another question than its digest names"
    elif made != form["digest"]:
        flaw = "has another verdict or policy than its digest names"
    elif form["verdict"]["outcome"] != form["outcome"]:
        flaw = "states another outcome than its verdict"
    return _Decision(
        made,
        str(form["outcome"]),
        str(question["subject"]["id"]),
        str(question["dataset"]["id"]),
        form["revision_digest"] or "",
        # A question from before the word existed was about people.
        question.get("job", {}).get("split") == "public_test",
        questioned.plan_of(question),
        flaw,
    )


def _difference(
    decision: _Decision, leaf: Mapping[str, Any], facts: Mapping[str, Any]
) -> str | None:
    """In what the decision is not the entry's; None when it is."""
    if facts.get("decision_digest") != decision.digest:
        return "is not the one whose digest the entry holds"
    if leaf["kind"] in _DECIDED and decision.outcome not in _ALLOWING:
        return f"says {decision.outcome}"
    stated = (leaf.get("researcher"), facts.get("dataset"), facts.get("policy_digest"))
    decided = (decision.subject, decision.dataset, decision.policy)
    for name, here, there in zip(_ABOUT, stated, decided, strict=True):
        if here is not None and here != there:
            return f"is about another {name}"
    if "mechanism" in leaf and (leaf["mechanism"]["kind"] == rdp.FREE) != decision.public:
        return f"is about {'public records' if decision.public else 'the records of people'}"
    return questioned.difference(decision.plan, leaf)
