"""One population's chain while an export streams by: places, gaps, late and doubled entries.

It says what is wrong with an entry's place; what the entry means is `replay`'s business. Gaps are
kept as ranges: a forged sequence number must not cost memory or time in proportion to its size.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from privacy_gateway import chain
from privacy_gateway.replay import Population


@dataclass(slots=True)
class Gap:
    """Entries from `first` to `last` that had not come when `line` was read."""

    first: int
    last: int
    line: int


@dataclass(slots=True)
class Chain:
    """What is known of one chain.

    Attributes:
        replay: balances and rules, as long as they can be derived.
        expected: sequence number that should come next.
        hash: seal of the entry before; None where that entry did not come.
        lost: unreadable lines that stood for entries at its end.
        met: sequence numbers of expected heads that were read.
    """

    name: str
    replay: Population
    expected: int = 1
    hash: str | None = chain.GENESIS
    entries: int = 0
    replaying: bool = True
    gaps: list[Gap] = field(default_factory=list)
    lost: int = 0
    head: tuple[int, str] | None = None
    head_line: int = 0
    met: set[int] = field(default_factory=set)

    def skip(self, seq: int, unreadable: int, line: int) -> None:
        """Note that `seq` came next, where unreadable lines stood for the first of those absent."""
        if self.expected + unreadable < seq:
            self.gaps.append(Gap(self.expected + unreadable, seq - 1, line))
        self.hash, self.replaying = None, False

    def found_late(self, seq: int) -> bool:
        """Whether this entry was missing until now; it is no longer."""
        at = bisect.bisect_right(self.gaps, seq, key=lambda gap: gap.first) - 1
        if at < 0 or seq > self.gaps[at].last:
            return False
        gap = self.gaps.pop(at)
        if seq < gap.last:
            self.gaps.insert(at, Gap(seq + 1, gap.last, gap.line))
        if gap.first < seq:
            self.gaps.insert(at, Gap(gap.first, seq - 1, gap.line))
        return True
