"""When the model of a round is published: several times a second, and whenever a block ends.

To publish is to hash the whole model and to write it where it outlives a power cut. A round of some
milliseconds would spend a good part of its time on that, for a model that is superseded before
anybody has looked at it. So the rounds that end within a moment are published as one, as the last
of them, while the sandbox is busy with the next one. What is published is never computed again; a
worker that dies loses what still waited, which is charged anew like the rest of its block (a tree's
is paid for). Nothing may wait once its block is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jobs import releases
from jobs.errors import FencedOut
from jobs.rounds import Claim
from jobs.services import Services
from kit import log, tensors
from worker.aggregate import ServerState

_log = log.get("worker")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The newest model of some rounds, none of which is published.

    Attributes:
        first: the earliest of these rounds.
        last: the round the model belongs to.
        state: the model.
        clip_norm: C of the last round, where it adapts.
    """

    first: int
    last: int
    state: ServerState
    clip_norm: float | None


class Publication:
    """Publishes the rounds of one claimed job; not thread-safe."""

    def __init__(
        self, services: Services, held: Claim, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nothing that waits.

        Args:
            services: the database, and how long a model may wait (`publish_seconds`).
            held: the claim under which is published.
            clock: seconds that never go back.
        """
        self._services = services
        self._held = held
        self._clock = clock
        self._waiting: _Waiting | None = None
        self._since = clock()
        self._noise_key: bytes | None = None

    @contextmanager
    def block(self) -> Iterator[None]:
        """A block of rounds: what waits at its end is published, also where a round failed.

        How it failed must not be seen by whether the rounds before it were published. So a
        publication that fails is tried once more, too: a machine short of memory while a sandbox
        trains must not show in another way than a sandbox that is.

        Raises:
            FencedOut: the claim is no longer in force.
        """
        self._since = self._clock()
        try:
            yield
            self._publish()
        except FencedOut:
            raise
        except Exception:
            self._publish_beside_a_failure()
            raise

    def _publish_beside_a_failure(self) -> None:
        """The failure is what has to be told, whatever becomes of the rounds before it."""
        try:
            self._publish()
        except FencedOut:
            raise
        except Exception as error:
            _log.warning("not_published", job=self._held.job_id, **log.place_of(error))

    def take(self, state: ServerState, round_number: int, clip_norm: float | None) -> None:
        """The model of the next round: it waits, with those before it, unless its tree is new.

        Raises:
            FencedOut: the claim is no longer in force.
        """
        first = self._waiting.first if self._waiting else round_number
        self._waiting = _Waiting(first, round_number, state, clip_norm)
        # A tree's key must be kept before more is computed under it: whoever goes on needs it.
        new_key = state.noise_key not in (None, self._noise_key)
        self._noise_key = state.noise_key
        if new_key:
            self._publish()

    def catch_up(self) -> None:
        """Publish what has waited long enough, while the block's next round is computed.

        Raises:
            FencedOut: the claim is no longer in force.
        """
        if self._clock() - self._since >= self._services.settings.publish_seconds:
            self._publish()

    def _publish(self) -> None:
        """Weights are the release, and C where it adapts; what going on needs is kept beside.

        It waits until the commit is known: what was committed already stays as it is.
        """
        waiting = self._waiting
        if waiting is None:
            return
        state = waiting.state
        weights = tensors.dump({f"weight_{i:04d}": array for i, array in enumerate(state.weights)})
        with self._services.database.unit_of_work() as session:
            releases.publish(
                session,
                self._held,
                first=waiting.first,
                round_number=waiting.last,
                weights=weights,
                server_state=state.to_bytes() if state.remembers else None,
                digest=tensors.digest(weights),
                clip_norm=waiting.clip_norm,
                now=self._services.clock(),
            )
        self._waiting = None
        self._since = self._clock()
