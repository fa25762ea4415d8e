"""A small market for tests of the jobs room: one owner, one population, one data set, one policy.

Everything is real but the data: the ledger, the revisions, the embedded engine. The data set's
row is written without a store, because nothing before a worker may open one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from accounting import ledger
from jobs.principal import Principal
from jobs.services import Services
from jobs.settings import Settings
from jobs.tables_datasets import Dataset
from kit.clock import micros
from kit.db import Database
from kit.ids import new_id
from policies import revisions
from policies.embedded import EmbeddedEngine
from policies.engine import PolicyEngine, Revision, text_digest
from policies.probes import floor_of
from policies.tables import PolicyRevision
from privacy_gateway import schemas
from privacy_gateway.schemas import JobRequest

_REVISION = PolicyRevision.__table__  # type: ignore[attr-defined]
START = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
OWNER = Principal("usr_owner", "owner@example.org", "owner")
RESEARCHER = Principal("usr_ada", "ada@example.org", "researcher")

POLICY = """package clinic

default decision := {"allow": false, "deny": set(), "approvals": set(), "obligations": set()}

decision := {
	"allow": count(refusals) == 0,
	"deny": refusals,
	"approvals": approvals,
	"obligations": set(),
}

refusals contains {
	"code": "purpose_unknown",
	"field": "purpose",
	"message": "only research is allowed",
	"limit": "research",
} if {
	input.job.purpose != "research"
}

refusals contains {
	"code": "too_many_rounds",
	"field": "rounds",
	"message": "at most ROUNDS rounds",
	"limit": ROUNDS,
} if {
	input.job.rounds > ROUNDS
}

refusals contains {
	"code": "price_cap",
	"field": "cost.epsilon_nano",
	"message": "one job may cost at most an epsilon of CAP",
	"limit": CAP000000000,
} if {
	input.cost.epsilon_nano > CAP000000000
}

approvals contains {"role": "owner", "count": 1, "within_hours": 24} if {
	input.job.rounds > APPROVED
}
"""
TESTS = """package clinic_test

import data.clinic

test_denies_unknown_purpose if {
	not clinic.decision.allow with input as {"job": {"purpose": "ads", "rounds": 1}}
}
"""


def policy(*, rounds: int = 1000, cap: int = 7, approved: int = 100_000) -> str:
    """The clinic's policy with its limits; above `approved` rounds the owner is asked."""
    text = POLICY.replace("APPROVED", str(approved)).replace("ROUNDS", str(rounds))
    return text.replace("CAP", str(cap))


@dataclass
class Clock:
    """A clock that stands still until it is told to move."""

    moment: datetime = START

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **parts: float) -> None:
        """Move by a `timedelta`."""
        self.moment += timedelta(**parts)


@dataclass(frozen=True)
class Market:
    """Services and the ids of what was set up in them."""

    services: Services
    population_id: str
    dataset_id: str
    clock: Clock = field(default_factory=Clock)

    @property
    def database(self) -> Database:
        """The database of the services."""
        return self.services.database

    def balance(self) -> ledger.Balance:
        """The population's balance now."""
        with self.database.read() as session:
            return ledger.balance(session, self.population_id)

    def entries(self, kind: str) -> list[Any]:
        """Ledger entries of one kind."""
        with self.database.read() as session:
            return list(
                ledger.entries(session, population=self.population_id, kind=kind, limit=1000)
            )

    def activate(self, source: str) -> Revision:
        """Make another text the active policy, examined like any."""
        with self.database.unit_of_work() as session:
            return activate(session, self.services.engine, self.dataset_id, source, self.clock())

    def with_engine(self, engine: PolicyEngine) -> Market:
        """The same market behind another policy engine."""
        return replace(self, services=replace(self.services, engine=engine))


def activate(
    session: Any, engine: PolicyEngine, dataset_id: str, source: str, now: datetime
) -> Revision:
    """Draft and activate a policy text."""
    draft = revisions.draft(
        session,
        dataset_id=dataset_id,
        source=source,
        tests=TESTS,
        reason="for a test",
        author_id=OWNER.id,
        now=now,
    )
    return revisions.activate(
        session,
        [engine],
        dataset_id=dataset_id,
        number=draft.number,
        actor_id=OWNER.id,
        now=now,
        floor=floor_of(minimum_clients_per_round=2, minimum_noise_multiplier=0.3),
    )


def let_decide(market: Market, source: str) -> None:
    """Let a text decide that nobody examined."""
    now = micros(market.clock())
    where = _REVISION.c.dataset_id == market.dataset_id
    with market.database.unit_of_work() as session:
        number = session.execute(sa.select(sa.func.max(_REVISION.c.number)).where(where)).scalar()
        session.execute(
            sa.update(_REVISION)
            .where(where, _REVISION.c.state == "active")
            .values(state="superseded", superseded_at=now)
        )
        session.execute(
            sa.insert(_REVISION).values(
                id=new_id("pol"),
                dataset_id=market.dataset_id,
                number=(number or 0) + 1,
                source=source,
                tests="",
                digest=text_digest(source, ""),
                state="active",
                reason="by hand",
                author_id=OWNER.id,
                created_at=now,
                activated_at=now,
                activated_by=OWNER.id,
            )
        )


@contextmanager
def engine(processes: int = 2) -> Iterator[EmbeddedEngine]:
    """A real engine, closed at the end."""
    made = EmbeddedEngine(processes=processes, test_seconds=20.0)
    try:
        yield made
    finally:
        made.close()


def open_market(
    database: Database,
    engine: PolicyEngine,
    state_dir: Path,
    *,
    clients: int = 1000,
    epsilon: float = 8.0,
    delta: float = 1e-5,
    source: str | None = None,
    dataset: Mapping[str, Any] | None = None,
) -> Market:
    """Set everything up: population, data set (columns replaced by `dataset`), active policy."""
    clock = Clock()
    # Each round is published by itself: where trainers answer at once, a clock would decide.
    settings = Settings(
        state_dir=state_dir,
        policy_deadline_seconds=20.0,
        rounds_per_block=5,
        publish_seconds=0.0,
    )
    services = Services(settings, database, engine, clock)
    population_id, dataset_id = new_id("pop"), new_id("ds")
    with database.unit_of_work() as session:
        ledger.open_population(
            session,
            population_id=population_id,
            name="Patients",
            privacy_unit="patient",
            clients=clients,
            epsilon=epsilon,
            delta=delta,
            owner_id=OWNER.id,
            now=clock(),
        )
        row = _dataset(dataset_id, population_id, clients, clock())
        for column, value in (dataset or {}).items():
            setattr(row, column, value)
        session.add(row)
        session.flush()
        activate(session, engine, dataset_id, source or policy(), clock())
    return Market(services, population_id, dataset_id, clock)


def request(dataset_id: str, **changes: Any) -> JobRequest:
    """A modest request; keyword arguments replace members of its body."""
    return schemas.parse(JobRequest, body(dataset_id, **changes))


def body(dataset_id: str, **changes: Any) -> dict[str, Any]:
    """The JSON body of a modest request."""
    modest: dict[str, Any] = {
        "dataset": dataset_id,
        "purpose": "research",
        "algorithm": {"name": "dp_fedavg", "clip_norm": 1.0},
        "rounds": 20,
        "clients_per_round": 50,
        "noise_multiplier": 1.1,
        "model": {
            "architecture": {
                "input": {"shape": [4]},
                "layers": [{"type": "Dense", "units": 3, "activation": "softmax"}],
            }
        },
    }
    return modest | changes


def _dataset(dataset_id: str, population_id: str, clients: int, now: datetime) -> Dataset:
    return Dataset(
        id=dataset_id,
        name=dataset_id,
        population_id=population_id,
        owner_id=OWNER.id,
        version=1,
        digest="0" * 64,
        clients=clients,
        examples=clients * 10,
        assets=[],
        feature_shape=[4],
        feature_dtype="float32",
        label_dtype="int64",
        classes=3,
        store_path="nowhere",
        tags=["test"],
        manifest={"examples_per_client": 10},
        created_at=micros(now),
    )
