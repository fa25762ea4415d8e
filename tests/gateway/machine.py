"""A gateway that is lost and restored: its database, state and witness, and what happens to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from accounting import blocks, ledger
from gateway import backup
from gateway.restore import Asking, Restored, restore
from gateway.settings import GatewaySettings
from jobs.notary import Notary
from jobs.services import Services
from kit.db import Database
from policies.engine import PolicyEngine
from tests.accounting.support import NOW, charge, export, open_population, reserve, settle

LATER = NOW + timedelta(days=1)


@dataclass
class Machine:
    """A gateway's database, state and witness; the notary is stepped by hand."""

    settings: GatewaySettings
    engine: PolicyEngine
    fresh_url: str

    def database(self) -> Database:
        return Database(self.settings.database())

    def sign(self) -> None:
        database = self.database()
        Notary(Services(self.settings, database, self.engine)).step()
        database.close()

    def lose(self) -> None:
        """The database is gone; the witness, on another volume, is not."""
        if self.settings.database().startswith("sqlite"):
            for path in self.settings.state_dir.glob("gateway.sqlite3*"):
                path.unlink()
        else:
            self.settings = self.settings.model_copy(update={"database_url": self.fresh_url})

    def back(self, **asking: Any) -> Restored:
        return restore(self.settings, Asking(**asking), now=LATER)


def before(database: Database) -> None:
    """What the backup holds."""
    with database.unit_of_work() as session:
        open_population(session, "pop_a")
        open_population(session, "pop_b")
        reserve(session, "job_1", rounds=20)
        charge(session, "job_1", 1, 5)


def after(database: Database) -> None:
    """What it does not: every kind of entry, with shares, blocks and a new population."""
    with database.unit_of_work() as session:
        charge(session, "job_1", 6, 5, attempt=1, fence=3)
        ledger.set_quota(
            session, population_id="pop_a", researcher_id="usr_s", epsilon=4.0,
            actor_id="usr_owner", now=NOW,
        )  # fmt: skip
        ledger.set_quota(
            session, population_id="pop_a", researcher_id="study", kind="project", epsilon=5.0,
            actor_id="usr_owner", now=NOW,
        )  # fmt: skip
        reserve(session, "job_2", rounds=30, researcher_id="usr_s")
        charge(session, "job_2", 1, 10)
        settle(session, "job_2")
        open_population(session, "pop_c", clients=1000)
        reserve(session, "job_3", rounds=7, population_id="pop_c")
        blocks.open_block(
            session, population_id="pop_b", name="north", clients=500, reason="two towns",
            actor_id="usr_owner", now=NOW,
        )  # fmt: skip
        ledger.set_second_person(
            session, population_id="pop_b", needed=True, reason="care", actor_id="usr_owner",
            now=NOW,
        )  # fmt: skip
    with database.unit_of_work() as session:
        ledger.grant(
            session, population_id="pop_a", epsilon=1.5, reason="more", actor_id="usr_owner",
            now=NOW,
        )  # fmt: skip
        ledger.deny(
            session, population_id="pop_a", job_id=None, researcher_id="usr_r",
            code="policy_denied", facts={"n": 1}, now=NOW,
        )  # fmt: skip
        ledger.freeze(session, population_id="pop_b", reason="stop", actor_id="usr_owner", now=NOW)


def spent(database: Database) -> dict[str, tuple[float, float]]:
    """(charged, charged and reserved) ε by population."""
    with database.read() as session:
        return {
            balance.population_id: (balance.epsilon_spent, balance.epsilon_committed)
            for balance in ledger.balances(session)
        }


def shares(database: Database) -> set[tuple[Any, ...]]:
    with database.read() as session:
        return {
            (name, share.kind, share.holder_id, share.terms, share.charged)
            for name in ("pop_a", "pop_b", "pop_c")
            for share in ledger_quotas(session, name)
        }


def ledger_quotas(session: Any, population: str) -> Any:
    return ledger.odometer(session, population).quotas


def lived(machine: Machine, tmp_path: Path) -> tuple[Path, list[bytes], Database]:
    """A life: a backup in the middle, an export at the end; the database stays open to compare."""
    database = machine.database()
    before(database)
    machine.sign()
    folder = tmp_path / "backup"
    backup.make(machine.settings, database, folder, now=NOW, with_data=False)
    after(database)
    machine.sign()
    return folder, export(database), database
