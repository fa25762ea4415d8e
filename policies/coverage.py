"""What an owner's tests never reach: lines, and the rules they stand in.

A rule that no test reaches may say anything. Coverage is told beside the tests' outcome and decides
nothing; a policy with all lines reached can still be wrong, so this module must never pass one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from policies.errors import EngineFailed, Fault

_HEAD = re.compile(r"(?:default\s+)?([A-Za-z_][A-Za-z0-9_]*)")
_NO_RULE = frozenset({"package", "import", "else"})


@dataclass(frozen=True, slots=True)
class Coverage:
    """Lines (1-based) of the policy that tests reach or not; `rules`: never wholly reached.

    Lines without anything to evaluate are in neither list.
    """

    covered: tuple[int, ...]
    missed: tuple[int, ...]
    rules: tuple[str, ...]

    @property
    def percent(self) -> int:
        """Share of the reached lines, rounded down; 100 only when nothing is missed."""
        total = len(self.covered) + len(self.missed)
        return 100 if not total else 100 * len(self.covered) // total


def measure(engine: object, source: str, tests: str) -> Coverage | None:
    """What the tests reach of a policy; None where the engine cannot tell.

    Args:
        engine: the embedded one; others have no such answer.
        source: the owner's policy.
        tests: the owner's tests.

    Raises:
        EngineFailed: the engine could not work.
        TextRefused: the policy or its tests cannot be read.
    """
    ask = getattr(engine, "coverage", None)
    if ask is None:
        return None
    files = ask(source, tests)
    policy = next((file for file in files if str(file["path"]).endswith("/policy.rego")), None)
    if policy is None:
        raise EngineFailed(Fault.MALFORMED, "the engine reports no coverage of the policy")
    covered, missed = tuple(policy["covered"]), tuple(policy["not_covered"])
    return Coverage(covered, missed, unreached(source, missed))


def unreached(source: str, missed: tuple[int, ...]) -> tuple[str, ...]:
    """`name (line n)` of each rule with a line that no test reaches, in order.

    The engine counts a head as reached once its body has held, so these rules were never true.
    """
    starts = _rule_lines(source)
    names = []
    for place, (line, name) in enumerate(starts):
        end = starts[place + 1][0] if place + 1 < len(starts) else len(source.splitlines()) + 1
        if any(line <= at < end for at in missed):
            names.append(f"{name} (line {line})")
    return tuple(names)


def _rule_lines(source: str) -> list[tuple[int, str]]:
    """Where rules begin: at the margin, as the formatter that `make rego` runs demands."""
    found = []
    for number, line in enumerate(source.splitlines(), start=1):
        head = _HEAD.match(line)
        if head is not None and head[1] not in _NO_RULE:
            found.append((number, head[1]))
    return found
