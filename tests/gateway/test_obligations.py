"""What a policy demands beside a yes, seen from outside: consent, outputs, delay, turns."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from jobs import rounds
from jobs.services import Services
from jobs.tables import Job
from kit.clock import utc_now
from tests.gateway.clinic import Clinic, opened, publish
from tests.gateway.conftest import Gateway
from tests.support.market import policy
from tests.support.trainer import Stable
from worker import coordinator
from worker.coordinator import Tools
from worker.noise import NoiseSource

ONE_OWNER = 'approvals contains {"role": "owner", "count": 1, "within_hours": 24} if {'
COMMITTEE = (
    """approvals contains {"role": "auditor", "count": 1, "within_hours": 24}

approvals contains {"role": "auditor", "count": 2, "within_hours": 48}

"""
    + ONE_OWNER
)
YES, NO = {"decision": "approve"}, {"decision": "reject", "note": "not now"}


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    gateway.add("second_auditor", "auditor")
    return opened(gateway)


def govern(clinic: Clinic, source: str, *, obliged: str = "set()") -> None:
    """Publish a policy with these obligations."""
    assert source.count('"obligations": set(),\n}') == 1
    text = source.replace('"obligations": set(),\n}', f'"obligations": {obliged},\n}}')
    publish(clinic.house, clinic.dataset, text)


def submit(clinic: Clinic, **changes: Any) -> dict[str, Any]:
    job: dict[str, Any] = clinic.house.ok(
        "researcher", "POST", "/v1/jobs", json=clinic.job(**changes)
    )
    return job


def run(services: Services, job_id: str) -> str:
    """The worker's own code, with a trainer in this process."""
    made = Tools(open_trainer=Stable(), noise=lambda: NoiseSource(bytes(32)))
    return coordinator.run(services, job_id, worker="w1", tools=made)


def test_a_job_runs_only_when_everybody_who_was_named_agreed(
    clinic: Clinic, services: Services
) -> None:
    house = clinic.house
    govern(clinic, policy(approved=1).replace(ONE_OWNER, COMMITTEE))
    job = submit(clinic)
    path = f"/v1/jobs/{job['id']}/approvals"
    assert job["status"] == "awaiting_approval"
    held = clinic.budget()["epsilon_reserved"]
    assert held > 0
    assert run(services, job["id"]) == "not_taken"

    assert house.refused("admin", "POST", path, json=YES)["code"] in ("forbidden", "not_found")
    assert house.ok("owner", "POST", path, json=YES)["status"] == "awaiting_approval"
    assert house.ok("auditor", "POST", path, json=YES)["status"] == "awaiting_approval"
    again = house.refused("auditor", "POST", path, json=YES)
    assert (again["status"], again["code"]) == (409, "conflict")
    assert house.ok("second_auditor", "POST", path, json=YES)["status"] == "queued"

    assert clinic.budget()["epsilon_reserved"] == held
    assert run(services, job["id"]) == "ended"
    assert house.ok("researcher", "GET", f"/v1/jobs/{job['id']}")["status"] == "completed"


def test_one_no_ends_the_job_and_frees_its_budget(clinic: Clinic, services: Services) -> None:
    govern(clinic, policy(approved=1).replace(ONE_OWNER, COMMITTEE))
    job = submit(clinic)
    path = f"/v1/jobs/{job['id']}/approvals"
    clinic.house.ok("auditor", "POST", path, json=YES)
    assert clinic.house.ok("owner", "POST", path, json=NO)["status"] == "denied"
    assert clinic.budget()["epsilon_reserved"] == 0
    late = clinic.house.refused("second_auditor", "POST", path, json=YES)
    assert late["code"] == "conflict"
    assert run(services, job["id"]) == "not_taken"


def doors(clinic: Clinic, job_id: str) -> dict[str, Any]:
    """What the researcher gets at each door: a refusal's code, or what stands in the answer."""
    found: dict[str, Any] = {}
    with clinic.house.client("researcher") as client:
        for door in ("result", "receipt", "metrics"):
            answer = client.get(f"/v1/jobs/{job_id}/{door}")
            if answer.is_success:
                found[door] = answer.json() if door == "metrics" else "given"
            else:
                found[door] = answer.json()["code"]
        view = client.get(f"/v1/jobs/{job_id}").json()
        listed = client.get("/v1/jobs").json()["items"]
    assert view["metrics"] == next(each for each in listed if each["id"] == job_id)["metrics"]
    return found | {"view": view["metrics"]}


def test_nothing_leaves_before_the_owners_delay_has_passed(
    clinic: Clinic, services: Services
) -> None:
    govern(clinic, policy(), obliged='{{"type": "release_delay_hours", "value": 24}}')
    job_id = submit(clinic)["id"]
    assert run(services, job_id) == "ended"
    early = {"result": "not_ready", "receipt": "not_ready", "metrics": [], "view": None}
    assert doors(clinic, job_id) == early
    assert clinic.house.ok("owner", "GET", f"/v1/jobs/{job_id}/receipt")["job"] == job_id

    column = Job.__table__.c.release_at  # type: ignore[attr-defined]
    with services.database.unit_of_work() as session:
        # As if the job had ended a day before: nobody can move the database's clock.
        session.execute(sa.update(Job).values(release_at=column - 24 * 3_600_000_000))
    late = doors(clinic, job_id)
    assert (late["result"], late["receipt"]) == ("given", "given")


@pytest.mark.parametrize(
    ("outputs", "given"),
    [
        ('{"weights"}', {"result": "given", "receipt": "forbidden"}),
        ('{"receipt"}', {"result": "forbidden", "receipt": "given", "metrics": []}),
    ],
)
def test_a_researcher_is_given_what_the_owner_lets_out(
    clinic: Clinic, services: Services, outputs: str, given: dict[str, Any]
) -> None:
    govern(clinic, policy(), obliged=f'{{{{"type": "outputs", "value": {outputs}}}}}')
    job_id = submit(clinic)["id"]
    assert run(services, job_id) == "ended"
    found = doors(clinic, job_id)
    assert {door: found[door] for door in given} == given


def test_jobs_beyond_the_owners_number_wait_in_the_queue(
    clinic: Clinic, services: Services
) -> None:
    govern(clinic, policy(), obliged='{{"type": "max_parallel_jobs", "value": 1}}')
    first, second = submit(clinic, rounds=1)["id"], submit(clinic, rounds=1)["id"]
    with services.database.unit_of_work() as session:
        held = rounds.claim(session, first, worker="w", lease_seconds=60, now=utc_now())
    assert held is not None
    assert run(services, second) == "not_taken"
    assert clinic.house.ok("researcher", "GET", f"/v1/jobs/{second}")["status"] == "queued"
    with services.database.unit_of_work() as session:
        rounds.release(session, held, reason="for a test", now=utc_now())
    assert run(services, second) == "ended"


@pytest.mark.parametrize(
    ("obliged", "shown"),
    [
        ("set()", True),
        ('{{"type": "release_delay_hours", "value": 24}}', False),
        ('{{"type": "outputs", "value": ["receipt"]}}', False),
    ],
)
def test_an_adaptive_norm_leaves_by_the_events_no_earlier_than_by_the_other_doors(
    clinic: Clinic, services: Services, obliged: str, shown: bool
) -> None:
    govern(clinic, policy(), obliged=obliged)
    job = submit(clinic, algorithm__clip_norm="adaptive", noise_multiplier=1.5)["id"]
    assert run(services, job) == "ended"
    told = {}
    for who in ("researcher", "owner"):
        with clinic.house.client(who) as client:
            told[who] = client.get(f"/v1/jobs/{job}/events").text
    assert "event: published" in told["researcher"]
    assert ("clip_norm" in told["researcher"]) is shown
    assert "clip_norm" in told["owner"]
