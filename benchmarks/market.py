"""A gateway's inside to measure on: one owner, one population, one policy, real stores."""

from __future__ import annotations

import importlib
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.models import MOST, Model
from jobs.principal import Principal
from jobs.settings import Settings
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.schemas import JobRequest
from tests.support import market as markets
from tests.support import servers
from tests.support.market import Market

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
SERIAL = itertools.count(1)
# Clients of a round in a job; what a round costs the gateway does not depend on them.
COHORT = 100


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one measurement, on a disk and not in memory where /tmp is one."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, Database]]:
    """Empty durable databases by name; PostgreSQL only where it is installed."""
    for room in ("accounting", "gateway", "jobs", "policies"):
        importlib.import_module(f"{room}.tables")
    with ExitStack() as stack:
        urls = {SQLITE: f"sqlite:///{folder / 'gateway.db'}"}
        if servers.postgres_binaries() is not None:
            urls[POSTGRESQL] = stack.enter_context(servers.postgres(folder, durable=True))
        opened = {name: Database(url) for name, url in urls.items()}
        for database in opened.values():
            stack.callback(database.close)
            database.create_all()
        yield opened


@contextmanager
def sqlite(folder: Path) -> Iterator[Database]:
    """The embedded default alone."""
    for room in ("accounting", "gateway", "jobs", "policies"):
        importlib.import_module(f"{room}.tables")
    database = Database(f"sqlite:///{folder / 'gateway.db'}")
    database.create_all()
    yield database
    database.close()


@contextmanager
def engine(processes: int = 2) -> Iterator[EmbeddedEngine]:
    """The embedded policy engine."""
    made = EmbeddedEngine(processes)
    yield made
    made.close()


def researcher(number: int) -> Principal:
    """One of many."""
    return Principal(f"usr_{number:02d}", f"r{number}@example.org", "researcher")


def cheap(dataset_id: str, **changes: Any) -> Any:
    """A request so cheap that a budget holds a million of them."""
    modest = {"rounds": 10, "clients_per_round": 2, "noise_multiplier": 50.0}
    return markets.request(dataset_id, **modest | changes)


def open_market(database: Database, engine: EmbeddedEngine, folder: Path, **options: Any) -> Market:
    """A market that nobody can exhaust in a benchmark, with the pace of the product."""
    market = markets.open_market(database, engine, folder, **{"epsilon": 100.0} | options)
    pace = {
        name: Settings.model_fields[name].default
        for name in ("rounds_per_block", "publish_seconds")
    }
    settings = market.services.settings.model_copy(update=pace)
    return replace(market, services=replace(market.services, settings=settings))


def described(model: Model) -> dict[str, Any]:
    """The columns of a data set that a model can be trained on."""
    return {
        "feature_shape": list(model.shape),
        "feature_dtype": "int32" if model.text else "float32",
        "classes": model.task().model.layers[-1].units,  # type: ignore[union-attr]
        "manifest": {"examples_per_client": MOST},
    }


def asked(market: Market, model: Model, *, rounds: int) -> JobRequest:
    """A request to train a model with cohorts of `COHORT`, at a price that never matters."""
    return markets.request(
        market.dataset_id,
        rounds=rounds,
        clients_per_round=COHORT,
        noise_multiplier=20.0,
        model={"architecture": model.task().model.model_dump(mode="json")},
    )
