"""Keeps a claim alive while a round runs, and ends the sandbox when the claim is lost.

A thread of its own renews the lease. When the lease is lost, or this process was told to stop and
the block under way takes too long, it kills the sandbox: nothing that is computed afterwards could
be published anyway. It must never charge, publish or decide anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from jobs import rounds
from jobs.errors import FencedOut
from jobs.rounds import Claim
from kit import log
from kit.db import Database

_log = log.get("worker")

# How soon a lost claim or a wish to stop is noticed.
STEP_SECONDS = 0.2


class Heartbeat:
    """Context manager around one claimed job.

    Args:
        database: where the lease lies.
        held: the claim.
        every_seconds: pause between renewals, well below the lease.
        stopping: whether this process was told to end.
        stop_seconds: grace for the block under way after that.
    """

    def __init__(
        self,
        database: Database,
        held: Claim,
        *,
        every_seconds: float,
        stopping: Callable[[], bool],
        stop_seconds: float,
    ) -> None:
        self._database = database
        self._held = held
        self._every = every_seconds
        self._stopping = stopping
        self._stop_seconds = stop_seconds
        self._kill: Callable[[], None] | None = None
        self._doomed = False
        self._abandoned = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def abandoned(self) -> bool:
        """Whether the sandbox was ended here because the process was told to stop."""
        return self._abandoned

    def guard(self, kill: Callable[[], None]) -> None:
        """Call `kill` once the work is worth nothing any more; at once, if it is so already."""
        self._kill = kill
        if self._doomed:
            kill()

    def rest(self) -> None:
        """The work is over; the sandbox may be closed in peace."""
        self._over.set()

    def _loop(self) -> None:
        renewed = time.monotonic()
        stop_since: float | None = None
        while not self._over.wait(min(STEP_SECONDS, self._every)):
            moment = time.monotonic()
            if stop_since is None and self._stopping():
                stop_since = moment
            if stop_since is not None and moment - stop_since > self._stop_seconds:
                self._abandoned = True
                self._end("stopping")
                return
            if moment - renewed < self._every:
                continue
            kept = self._renew()
            if kept is None or moment - renewed > self._held.lease_seconds:
                self._end("lease_lost")
                return
            renewed = moment if kept else renewed

    def _renew(self) -> bool | None:
        """True when renewed, False without an answer, None when the claim is lost."""
        try:
            with self._database.unit_of_work() as session:
                rounds.renew(session, self._held)
        except FencedOut:
            return None
        except SQLAlchemyError as error:
            _log.warning("heartbeat_failed", job=self._held.job_id, reason=type(error).__name__)
            return False
        return True

    def _end(self, reason: str) -> None:
        _log.warning("sandbox_killed", job=self._held.job_id, reason=reason)
        self._doomed = True
        if self._kill is not None:
            self._kill()
