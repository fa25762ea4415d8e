"""Approvals that nobody could ever give: more owners of a data set than it has.

A data set belongs to one account, only that account approves as its owner, and one person counts
once; so a policy that asks for two owners admits nothing, silently, after days of waiting. Other
roles may be held by any number of accounts. Only what stands in the text as a number is seen
here; what is worked out shows itself when the probes are asked (`policies.activation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from policies import syntax
from policies.syntax import Node, Reference
from policies.verdict import Verdict

CODE = "approval_impossible"
OWNERS = 1
HINT = 'ask for one owner, and for an "auditor" or "admin" beside'
# Where role and count stand among the arguments of the library's functions.
_FUNCTIONS = {"data.gateway.approvals.by": 0, "data.gateway.approvals.by_above": 1}


def too_many(tree: Node, absolute: Callable[[Reference], str | None]) -> Iterator[tuple[int, int]]:
    """Demands for several owners: where each stands (byte offset), and how many it asks for.

    Args:
        tree: syntax tree of a rule.
        absolute: the full path of a reference; None for a variable.
    """
    for call in syntax.references(tree):
        first = _FUNCTIONS.get(absolute(call) or "") if call.called else None
        if first is None:
            continue
        count = _owners(*call.arguments[first : first + 2])
        if count > OWNERS:
            yield call.start, count
    for written in syntax.nodes(tree, "Object"):
        keys = {str(syntax.constant(key)): (key, value) for _, key, value in written["fields"]}
        if not keys.keys() >= {"role", "count"}:
            continue
        count = _owners(keys["role"][1], keys["count"][1])
        if count > OWNERS:
            yield keys["role"][0]["String"]["span"]["start"] - 1, count  # at the quote


def said_by(verdict: Verdict) -> str:
    """What is wrong with the demands of a verdict; empty where they can be met."""
    for demand in verdict.approvals:
        if demand.role == "owner" and demand.count > OWNERS:
            return f"{CODE}: {message(demand.count)} ({HINT})"
    return ""


def message(count: int) -> str:
    """The sentence that an owner reads."""
    return f"{count} owners cannot agree: a data set has one"


def _owners(role: Node | None = None, count: Node | None = None) -> int:
    """How many owners two nodes ask for; 0 where that cannot be told."""
    number = (count or {}).get("Number", {}).get("value")
    return number if syntax.constant(role or {}) == "owner" and type(number) is int else 0
