"""What a use case needs from outside, in one frozen value that the edges build once.

Everything that a test wants to replace (time, ids, engine, database) comes in here; nothing below
may reach for a global. It must never hold per-request state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.settings import Settings
from kit.clock import Clock, utc_now
from kit.db import Database
from kit.group import GroupCommit
from kit.ids import new_id
from policies.embedded import EmbeddedEngine
from policies.engine import PolicyEngine
from policies.opa import OpaEngine
from policies.shadow import ShadowEngine
from policies.strict import reader

if TYPE_CHECKING:
    from jobs.attempt import Attempt, Settled


@dataclass(frozen=True, slots=True)
class Services:
    """The outside world of the jobs room.

    Attributes:
        settings: what the operator set.
        database: the one database handle.
        engine: who evaluates owners' policies.
        clock: the time, UTC.
        new_id: maker of identifiers, given a prefix.
        writer: admits jobs in groups (`jobs.admission.with_writer`); None for one commit a job.
    """

    settings: Settings
    database: Database
    engine: PolicyEngine
    clock: Clock = utc_now
    new_id: Callable[[str], str] = new_id
    writer: GroupCommit[Attempt, Settled] | None = None

    def close(self) -> None:
        """Let the writer finish, and give back the engine's processes and the connections."""
        if self.writer is not None:
            self.writer.close()
        self.engine.close()
        self.database.close()


def open_services(settings: Settings) -> Services:
    """Database and policy engine as the settings name them; connects to nothing yet."""
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Services(settings, Database(settings.database()), open_engine(settings))


def open_engine(settings: Settings) -> PolicyEngine:
    """The OPA server where one is named, shadowed if it shall be; else the embedded engine."""
    if not settings.opa_url:
        return EmbeddedEngine(settings.policy_processes, strict=reader(settings.opa_binary))
    token = settings.opa_token.get_secret_value() if settings.opa_token else None
    opa = OpaEngine(settings.opa_url, token=token, bundled=settings.opa_bundles)
    if not settings.policy_shadow:
        return opa
    return ShadowEngine(
        opa, EmbeddedEngine(settings.policy_processes, strict=reader(settings.opa_binary))
    )
