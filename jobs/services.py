"""What a use case needs from outside, in one frozen value that the edges build once.

Everything that a test wants to replace (time, ids, engine, database) comes in here; nothing below
may reach for a global. It must never hold per-request state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.settings import Settings
from kit.clock import Clock, utc_now
from kit.db import Database
from kit.ids import new_id
from policies.engine import PolicyEngine


@dataclass(frozen=True, slots=True)
class Services:
    """The outside world of the jobs room.

    Attributes:
        settings: what the operator set.
        database: the one database handle.
        engine: who evaluates owners' policies.
        clock: the time, UTC.
        new_id: maker of identifiers, given a prefix.
    """

    settings: Settings
    database: Database
    engine: PolicyEngine
    clock: Clock = utc_now
    new_id: Callable[[str], str] = new_id
