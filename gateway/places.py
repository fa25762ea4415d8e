"""How many requests of a slow kind may be under way at once, in all and for one caller.

Every request of the gateway shares a few threads and database connections, so whoever fills them
with slow ones stops everybody else. Beyond its places a request is refused at once and can be sent
again; nothing waits here, and nothing here may decide anything but when.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from privacy_gateway.errors import Refused


class Places:
    """Places for one kind of request.

    Args:
        what: the kind, in the plural, for the refusal.
        in_all: most at once.
        of_one: most at once of one caller.
    """

    def __init__(self, what: str, *, in_all: int, of_one: int) -> None:
        self._what, self._in_all, self._of_one = what, in_all, of_one
        self._guard = threading.Lock()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, caller: str = "") -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            Refused: `unavailable` when there is none.
        """
        with self._guard:
            self._look(caller)
            self._taken[caller] += 1
        try:
            yield
        finally:
            with self._guard:
                self._taken[caller] -= 1
                self._taken += Counter()  # forget who holds none

    def look(self, caller: str = "") -> None:
        """Whether there is a place now, without taking it.

        Raises:
            Refused: `unavailable` when there is none.
        """
        with self._guard:
            self._look(caller)

    def _look(self, caller: str) -> None:
        if self._taken[caller] >= self._of_one or self._taken.total() >= self._in_all:
            raise Refused("unavailable", f"too many {self._what} are under way; send it again")
