"""Every obligation of a policy, kept by a real worker process with its real sandboxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.services import Services
from jobs.tables import Job
from tests.gateway.clinic import Clinic, opened, publish
from tests.gateway.conftest import Gateway, engine, gateway, migrated, services, settings
from tests.support import servers, workers
from tests.support.market import Market, policy

__all__ = ["engine", "gateway", "migrated", "services", "settings"]
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

OBLIGED = """{
		{"type": "outputs", "value": {"receipt"}},
		{"type": "release_delay_hours", "value": 24},
		{"type": "max_parallel_jobs", "value": 1},
		{"type": "isolation", "value": "per_client_group"},
	},
}"""
GROUP = 2
_JOB = Job.__table__  # type: ignore[attr-defined]


def govern(clinic: Clinic) -> None:
    text = policy()
    assert text.count('"obligations": set(),\n}') == 1
    obliged = text.replace('"obligations": set(),\n}', f'"obligations": {OBLIGED}')
    publish(clinic.house, clinic.dataset, obliged)


def status(services: Services, job_id: str) -> str:
    with services.database.read() as session:
        return session.get_one(Job, job_id).status


def training(pid: int) -> set[int]:
    """Sandboxes below a worker, and the warm parent they are forked from."""
    found = set()
    for below in workers.descendants(pid):
        try:
            words = Path(f"/proc/{below}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if b"worker.training" in words:
            found.add(below)
    return found


def doors(clinic: Clinic, job_id: str) -> dict[str, Any]:
    """What the researcher meets at each door."""
    with clinic.house.client("researcher") as client:
        answers = {door: client.get(f"/v1/jobs/{job_id}/{door}") for door in ("result", "receipt")}
    return {
        door: "given" if answer.is_success else answer.json()["code"]
        for door, answer in answers.items()
    }


def test_a_real_worker_keeps_every_obligation(
    gateway: Gateway, services: Services, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVACY_GATEWAY_ISOLATION_GROUP_CLIENTS", str(GROUP))
    clinic = opened(gateway)
    govern(clinic)
    jobs = [
        gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job(rounds=1))["id"]
        for _ in range(2)
    ]
    market = Market(services, clinic.population, clinic.dataset)
    running: list[int] = []
    sandboxes: set[int] = set()
    with workers.worker(market, redis_url) as one, workers.worker(market, redis_url) as other:

        def done() -> bool:
            found = [status(services, job_id) for job_id in jobs]
            running.append(found.count("running"))
            for child in (one, other):
                sandboxes.update(training(child.pid))
            return found == ["completed", "completed"]

        servers.wait_until(done, what="two jobs one after the other", seconds=300)

    assert max(running) == 1, "with two workers free, one job runs and the other waits"
    # Two people to a sandbox, about twenty of them to a round; without it there are three a job.
    assert len(sandboxes) > 2 * (3 + 1), sandboxes
    for job_id in jobs:
        assert doors(clinic, job_id) == {"result": "forbidden", "receipt": "not_ready"}
    with services.database.unit_of_work() as session:
        # As if a day had passed: nobody can move the database's clock.
        earlier = _JOB.c.release_at - 24 * 3_600_000_000
        session.execute(sa.update(_JOB).values(release_at=earlier))
    for job_id in jobs:
        assert doors(clinic, job_id) == {"result": "forbidden", "receipt": "given"}
