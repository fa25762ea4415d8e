"""How many rounds the next block is to have: as many as end within a moment.

A charge costs the same for one round as for twenty. What is charged together is also lost together
when a worker dies, and cancel, freeze and a new policy wait until the block is over. So short
rounds share a charge, never more than a part of the job's, and a round that takes longer than the
moment is a block of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.settings import Settings

# A charge covers one part of a job at most: its reservation has no room for lost rounds.
PARTS = 5


class Pace:
    """Measures blocks to say how long the next one may be; of one job, not thread-safe."""

    def __init__(
        self,
        most: int,
        seconds: float,
        *,
        first: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            most: rounds of the longest block, ≥ 1.
            seconds: what a block is meant to take, > 0.
            first: rounds of the first block, when nothing is known of them.
            clock: seconds that never go back.
        """
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self.rounds = min(first, most)

    @contextmanager
    def measured(self, rounds: int) -> Iterator[None]:
        """Take the time of a block of `rounds`, ≥ 1; one that ends early says nothing."""
        began = self._clock()
        yield
        took = self._clock() - began
        fitting = self._seconds / took * rounds if took > 0 else math.inf
        self.rounds = max(1, int(min(fitting, self._most)))


def pace_of(settings: Settings, rounds: int) -> Pace:
    """The pace of a job of so many rounds."""
    return Pace(min(settings.rounds_per_block, -(-rounds // PARTS)), settings.block_seconds)
