"""Quotes, jobs and what follows them, over HTTP, with the embedded engine."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from gateway.settings import GatewaySettings
from jobs import presence
from jobs.services import Services
from tests.gateway.clinic import Clinic, opened, publish
from tests.gateway.conftest import Gateway, running
from tests.support.market import policy


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    return opened(gateway)


def _submit(clinic: Clinic, key: str = "first", **changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = clinic.house.ok(
        "researcher",
        "POST",
        "/v1/jobs",
        json=clinic.job(**changes),
        headers={"Idempotency-Key": key},
    )
    return answer


def test_a_quote_prices_and_changes_nothing(clinic: Clinic) -> None:
    before = clinic.budget()

    quote = clinic.house.ok("researcher", "POST", "/v1/quotes", json={"job": clinic.job()})

    assert quote["fits"] is True
    assert quote["verdict"] == "allow"
    assert quote["refusals"] == []
    assert 0 < quote["epsilon"] < 8
    assert quote["budget_before"] == 0 < quote["budget_after"] < 8
    assert clinic.budget() == before


def test_a_refused_quote_names_every_rule_and_offers_what_would_pass(clinic: Clinic) -> None:
    job = clinic.job(purpose="ads", noise_multiplier=0.05)

    quote = clinic.house.ok("researcher", "POST", "/v1/quotes", json={"job": job})

    assert quote["verdict"] == "deny"
    assert {"purpose_unknown", "budget_exceeded"} <= {rule["code"] for rule in quote["refusals"]}


def test_inverse_answers_are_admitted(clinic: Clinic) -> None:
    body = {"job": clinic.job(), "solve_for": "rounds"}

    answer = clinic.house.ok("researcher", "POST", "/v1/quotes/inverse", json=body)

    assert answer["value"] > 4
    quote = clinic.house.ok("researcher", "POST", "/v1/quotes", json={"job": answer["job"]})
    assert quote["verdict"] == "allow"


def test_a_submit_reserves_and_the_same_key_is_the_same_job(clinic: Clinic) -> None:
    with clinic.house.client("researcher") as client:
        headers = {"Idempotency-Key": "k"}
        first = client.post("/v1/jobs", json=clinic.job(), headers=headers)
        again = client.post("/v1/jobs", json=clinic.job(), headers=headers)
    other = clinic.house.refused(
        "researcher", "POST", "/v1/jobs", json=clinic.job(rounds=5), headers=headers
    )

    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    assert first.headers["location"] == f"/v1/jobs/{first.json()['id']}"
    assert again.headers["idempotent-replayed"] == "true"
    assert (other["status"], other["code"]) == (422, "idempotency_mismatch")
    assert 0 < clinic.budget()["epsilon_reserved"] < 8


def test_fifty_identical_posts_make_one_reservation(clinic: Clinic) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(_submit(clinic)["id"])) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 50
    assert len(set(ids)) == 1
    page = clinic.house.ok("auditor", "GET", "/v1/ledger?kind=reserve")
    assert len(page["items"]) == 1


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"purpose": "ads"}, 403, "policy_denied"),
        ({"rounds": 1000, "noise_multiplier": 0.4}, 409, None),
        ({"outputs": ["weights", "dp_metrics"]}, 422, "unsupported"),
    ],
)
def test_a_refusal_is_typed_and_reserves_nothing(
    clinic: Clinic, changes: dict[str, Any], status: int, code: str | None
) -> None:
    problem = clinic.house.refused("researcher", "POST", "/v1/jobs", json=clinic.job(**changes))

    if code is None:  # price above policy and budget: the policy speaks first
        assert problem["code"] in {"policy_denied", "budget_exceeded"}
        assert problem["rules"]
    else:
        assert (problem["status"], problem["code"]) == (status, code)
    assert clinic.budget()["epsilon_reserved"] == 0


def test_a_frozen_population_takes_no_job(clinic: Clinic) -> None:
    path = f"/v1/populations/{clinic.population}"
    clinic.house.ok("owner", "POST", f"{path}/freeze", json={"reason": "audit"})

    problem = clinic.house.refused("researcher", "POST", "/v1/jobs", json=clinic.job())
    assert (problem["status"], problem["code"]) == (409, "frozen")

    clinic.house.ok("owner", "POST", f"{path}/unfreeze", json={"reason": "done"})
    _submit(clinic)


def test_a_quota_is_its_own_refusal(clinic: Clinic) -> None:
    path = f"/v1/populations/{clinic.population}/quotas/researcher@example.org"
    clinic.house.ok("owner", "PUT", path, json={"epsilon": 0.1})

    problem = clinic.house.refused("researcher", "POST", "/v1/jobs", json=clinic.job())

    assert (problem["status"], problem["code"]) == (409, "quota_exceeded")


def test_cancel_gives_the_reservation_back_and_writes_a_receipt(clinic: Clinic) -> None:
    job = _submit(clinic)
    path = f"/v1/jobs/{job['id']}"
    early = clinic.house.refused("researcher", "GET", f"{path}/receipt")
    assert (early["status"], early["code"]) == (409, "not_ready")

    cancelled = clinic.house.ok("researcher", "POST", f"{path}/cancel")

    assert cancelled["status"] == "cancelled"
    assert clinic.budget()["epsilon_reserved"] == 0
    assert clinic.house.ok("researcher", "GET", f"{path}/receipt")
    assert clinic.house.ok("researcher", "GET", f"{path}/metrics") == []
    assert clinic.house.refused("researcher", "GET", f"{path}/result")["code"] == "not_ready"
    assert clinic.house.refused("researcher", "POST", f"{path}/cancel")["status"] == 409


def test_events_stream_until_the_end_and_resume_where_they_stopped(clinic: Clinic) -> None:
    job = _submit(clinic)
    path = f"/v1/jobs/{job['id']}"
    seen: list[dict[str, Any]] = []
    begun = threading.Event()

    def listen() -> None:
        with (
            clinic.house.client("researcher") as client,
            client.stream("GET", f"{path}/events") as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    seen.append(json.loads(line.removeprefix("data:")))
                    begun.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert begun.wait(60)
    clinic.house.ok("researcher", "POST", f"{path}/cancel")
    listener.join(60)

    assert not listener.is_alive()
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    with clinic.house.client("researcher") as client:
        rest = client.get(f"{path}/events", headers={"Last-Event-ID": "1"}).text
    assert "id: 1\r\n" not in rest
    assert f"id: {len(seen)}\r\n" in rest


def test_a_job_that_awaits_approval_is_the_owners_to_decide(clinic: Clinic) -> None:
    publish(clinic.house, clinic.dataset, policy(approved=1))
    job = _submit(clinic)
    path = f"/v1/jobs/{job['id']}"
    assert job["status"] == "awaiting_approval"
    forbidden = clinic.house.refused(
        "researcher", "POST", f"{path}/approvals", json={"decision": "approve"}
    )
    assert forbidden["code"] == "forbidden"

    approved = clinic.house.ok(
        "owner", "POST", f"{path}/approvals", json={"decision": "approve", "note": "fine"}
    )

    assert approved["status"] == "queued"


def test_jobs_are_listed_newest_first_and_paged(clinic: Clinic) -> None:
    made = [_submit(clinic, key=str(number), rounds=1)["id"] for number in range(3)]

    first = clinic.house.ok("researcher", "GET", "/v1/jobs?limit=2")
    second = clinic.house.ok("researcher", "GET", f"/v1/jobs?limit=2&after={first['next']}")

    assert [job["id"] for job in first["items"] + second["items"]] == made[::-1]
    assert second["next"] is None


def test_somebody_elses_job_does_not_exist(clinic: Clinic) -> None:
    job = _submit(clinic)
    for name, role in (("rival", "researcher"), ("stranger", "owner")):
        clinic.house.add(name, role)  # type: ignore[arg-type]
        missing = clinic.house.refused(name, "GET", "/v1/jobs/job_nothing")
        for suffix in ("", "/events", "/result", "/receipt", "/metrics"):
            hidden = clinic.house.refused(name, "GET", f"/v1/jobs/{job['id']}{suffix}")
            assert hidden["code"] == missing["code"] == "not_found"
            assert hidden["detail"].replace(job["id"], "job_nothing") == missing["detail"]
        assert clinic.house.ok(name, "GET", "/v1/jobs")["items"] == []


def test_a_worker_that_is_not_closed_is_shown_at_the_door(
    clinic: Clinic, services: Services
) -> None:
    with services.database.unit_of_work() as session:
        presence.beat(session, "w1", insecure=True)
    shown = clinic.house.client().get("/readyz")
    assert shown.status_code == 200
    assert (shown.json()["status"], shown.json()["parts"]["worker"]) == ("degraded", "insecure")


def test_without_an_answering_engine_every_submit_is_refused(
    clinic: Clinic, settings: GatewaySettings, services: Services
) -> None:
    from policies.opa import OpaEngine

    broken = OpaEngine("http://127.0.0.1:9")
    world = Services(settings, services.database, broken)
    with running(settings, world) as house:
        house.tokens.update(clinic.house.tokens)
        problem = house.refused("researcher", "POST", "/v1/jobs", json=clinic.job())
        unready = house.client().get("/readyz")

    assert (problem["status"], problem["code"]) == (503, "policy_unavailable")
    assert unready.status_code == 503
    assert unready.json()["parts"]["policy"] == "down"
    assert clinic.budget()["epsilon_reserved"] == 0
