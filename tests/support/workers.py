"""Real worker processes on a real broker, and a market whose data set can really be opened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from jobs import admission
from jobs.tables import Job, JobRelease
from kit import ragged
from kit.clock import utc_now
from kit.db import Database
from kit.process import spawn, stop
from policies.engine import PolicyEngine
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market
from tests.support.servers import REPOSITORY, wait_until

CLIENTS = 200
JOB_SECONDS = 120.0


def open_market(database: Database, engine: PolicyEngine, state_dir: Path) -> Market:
    """A market on the real clock with a store of 200 people and a public test set."""
    people, public = state_dir / "people", state_dir / "public"
    ragged.write(people, _rows(CLIENTS * 5), [5] * CLIENTS)
    ragged.write(public, _rows(50), [50])
    files = {"store_path": str(people), "test_store_path": str(public), "test_examples": 50}
    market = markets.open_market(database, engine, state_dir, clients=CLIENTS, dataset=files)
    return replace(market, services=replace(market.services, clock=utc_now))


def submit(market: Market, *, rounds: int) -> str:
    """A job of many short rounds."""
    request = markets.request(
        market.dataset_id, rounds=rounds, clients_per_round=10, noise_multiplier=3.0
    )
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def environment(market: Market, redis_url: str) -> dict[str, str]:
    """What a worker of this market is told.

    Leases are short so that tests are, and outlast a renewal that a busy machine keeps waiting.
    """
    return {
        **os.environ,
        "DATABASE_URL": market.database.url.render_as_string(hide_password=False),
        "REDIS_URL": redis_url,
        "PRIVACY_GATEWAY_STATE": str(market.services.settings.state_dir),
        "PRIVACY_GATEWAY_LEASE_SECONDS": "8",
        "PRIVACY_GATEWAY_REHINT_SECONDS": "1",
        "PRIVACY_GATEWAY_POLICY_DEADLINE_SECONDS": "20",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "client")]),
    }


@contextmanager
def worker(market: Market, redis_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """One worker process; killed at the end if it is still there."""
    log = market.services.settings.state_dir / "worker.log"
    with log.open("ab") as output:
        child = spawn(
            [sys.executable, "-m", "worker"],
            env=environment(market, redis_url),
            cwd=REPOSITORY,
            stdout=output,
            stderr=output,
        )
    try:
        yield child
    finally:
        stop(child, grace_seconds=15)


def descendants(pid: int) -> set[int]:
    """Process ids below `pid`."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], check=True, capture_output=True, text=True
    ).stdout
    parents = {int(line.split()[0]): int(line.split()[1]) for line in listed.splitlines()}
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_hard(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the worker alone, and wait for it."""
    child.send_signal(signal.SIGKILL)
    child.wait()


def job(market: Market, job_id: str) -> Job:
    """The row."""
    with market.database.read() as session:
        return session.get_one(Job, job_id)


def wait_published(market: Market, job_id: str, rounds: int) -> None:
    """Wait until that many rounds are published."""
    wait_until(
        lambda: job(market, job_id).rounds_published >= rounds,
        what=f"{rounds} published rounds",
        seconds=JOB_SECONDS,
    )


def wait_status(market: Market, job_id: str, status: str) -> Job:
    """Wait for a state; the job's row is in the message when it does not come."""
    try:
        wait_until(lambda: job(market, job_id).status == status, what=status, seconds=JOB_SECONDS)
    except TimeoutError as error:
        raise AssertionError(f"still {job(market, job_id)!r}") from error
    return job(market, job_id)


def published(market: Market, job_id: str) -> list[Any]:
    """Published rounds in order: number and the fence they were published under."""
    table = JobRelease.__table__  # type: ignore[attr-defined]
    query = (
        sa.select(table.c.round, table.c.fence)
        .where(table.c.job_id == job_id)
        .order_by(table.c.round)
    )
    with market.database.read() as session:
        return list(session.execute(query))


def _rows(examples: int) -> dict[str, Any]:
    """Three classes that a linear model can tell apart."""
    generator = np.random.default_rng(7)
    label = generator.integers(0, 3, examples).astype(np.int32)
    features = generator.normal(size=(examples, 4)).astype(np.float32)
    features[np.arange(examples), label] += 3.0
    return {"features": features, "label": label}
