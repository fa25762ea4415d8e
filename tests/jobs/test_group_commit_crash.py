"""kill -9 after a group of admissions was written and before its commit: as if it never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from accounting import ledger
from jobs import admission
from jobs.tables import Idempotency, Job, Outbox
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.verify import verify
from tests.support import market as markets
from tests.support.market import RESEARCHER, request

ROOT = Path(__file__).resolve().parents[2]

# The writer's own work, in a process that ends when everything is flushed and nothing committed.
VICTIM = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from jobs import admission
from jobs.services import Services
from jobs.settings import Settings
from jobs.settle import settle
from kit.db import Database
from kit.group import GroupCommit
from policies.embedded import EmbeddedEngine
from tests.support.market import RESEARCHER, START, request

url, folder, dataset_id = sys.argv[1:]
settings = Settings(state_dir=Path(folder), policy_deadline_seconds=20.0)
services = Services(settings, Database(url), EmbeddedEngine(1), lambda: START)

def work(session, attempts):
    answers = settle(services, session, attempts)
    if any(attempt.key == "last" for attempt in attempts):
        os.kill(os.getpid(), signal.SIGKILL)
    return answers

services = replace(services, writer=GroupCommit(services.database, work))

def one(key):
    job = admission.submit(services, RESEARCHER, request(dataset_id), key).job
    os.write(1, f"{key} {job.id}\\n".encode())  # whole lines, whoever else writes or is killed

for key in ("first", "second"):
    one(key)
with ThreadPoolExecutor(6) as pool:
    for key in ("a", "b", "c", "d", "e", "last"):
        pool.submit(one, key)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


def test_a_killed_group_leaves_nothing_and_its_keys_are_free(
    database: Database, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    market = markets.open_market(database, engine, tmp_path)
    url = database.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, url, str(tmp_path), market.dataset_id],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = dict(line.split() for line in done.stdout.splitlines())
    assert {"first", "second"} <= set(told)
    assert "last" not in told

    with market.database.read() as session:
        keys = {
            row.key: row.job_id
            for row in session.execute(sa.select(Idempotency.key, Idempotency.job_id))
        }
        jobs = set(session.execute(sa.select(Job.id)).scalars())
        hints = set(session.execute(sa.select(Outbox.job_id)).scalars())
        report = verify(ledger.export_lines(session))
    assert report.ok, report.problems
    # Every answer is in the database; what is there is whole.
    assert told.items() <= keys.items()
    assert "last" not in keys
    held = market.entries("reserve")
    assert set(keys.values()) == jobs == hints == {entry.job_id for entry in held}
    sums = tuple(map(sum, zip(*(entry.leaf["cost"] for entry in held), strict=True)))
    assert market.balance().reserved == sums

    again = admission.submit(market.services, RESEARCHER, request(market.dataset_id), "last")
    assert not again.replayed
    same = admission.submit(market.services, RESEARCHER, request(market.dataset_id), "first")
    assert (same.job.id, same.replayed) == (told["first"], True)
