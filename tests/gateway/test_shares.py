"""Who owns how much of a budget, over HTTP: shared data, blocks, quotas, second persons."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from jobs.services import Services
from kit.clock import utc_now
from privacy_gateway.verify import verify
from tests.gateway.clinic import FEATURES, Clinic, manifest, open_population, opened, publish
from tests.gateway.conftest import Gateway

HALF = 30


def file_of(ids: list[Any]) -> bytes:
    """Three records of each of these people."""
    numbers, rows = np.random.default_rng(3), 3 * len(ids)
    file = io.BytesIO()
    np.savez(
        file,
        x=numbers.normal(size=(rows, FEATURES)).astype(np.float32),
        y=numbers.integers(0, 2, rows).astype(np.int32),
        client=np.repeat(np.asarray(ids), 3),
    )
    return file.getvalue()


def form(described: dict[str, Any], content: bytes) -> dict[str, Any]:
    return {
        "data": {"manifest": json.dumps(described)},
        "files": {"file": ("visits.npz", content, "application/octet-stream")},
    }


def register(house: Gateway, described: dict[str, Any], ids: list[Any]) -> str:
    answer = house.ok("owner", "POST", "/v1/datasets", **form(described, file_of(ids)))
    publish(house, answer["id"])
    return str(answer["id"])


def wards(house: Gateway) -> tuple[str, dict[str, str]]:
    """One population, two blocks of thirty people, a data set about each."""
    population = open_population(house)
    made = {}
    for number, name in enumerate(("north", "south")):
        body = {"name": name, "clients": HALF, "reason": "wards share no patient"}
        house.ok("owner", "POST", f"/v1/populations/{population}/blocks", json=body)
        ids = list(range(number * HALF, (number + 1) * HALF))
        made[name] = register(house, manifest(population, name=name, block=name), ids)
    return population, made


def budget(house: Gateway, population: str, who: str = "owner", **params: str) -> dict[str, Any]:
    found: dict[str, Any] = house.ok(
        who, "GET", f"/v1/populations/{population}/budget", params=params
    )
    return found


def job_on(house: Gateway, dataset: str, **changes: Any) -> dict[str, Any]:
    return Clinic(house, "", dataset).job(clients_per_round=10, noise_multiplier=8.0, **changes)


def test_two_data_sets_about_the_same_people_share_one_budget(gateway: Gateway) -> None:
    clinic = opened(gateway)
    second = register(gateway, manifest(clinic.population, name="letters"), list(range(60)))
    whole = clinic.budget()["epsilon_remaining"]
    gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    after_one = clinic.budget()["epsilon_remaining"]

    quote = gateway.ok("researcher", "POST", "/v1/quotes", json={"job": clinic.job(dataset=second)})
    gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job(dataset=second))

    assert quote["budget_before"] == pytest.approx(whole - after_one)
    assert clinic.budget()["epsilon_remaining"] < after_one < whole


def test_blocks_spend_apart_and_the_owner_sees_each(gateway: Gateway) -> None:
    population, datasets = wards(gateway)
    job = job_on(gateway, datasets["north"])
    gateway.ok("researcher", "POST", "/v1/jobs", json=job)

    found = budget(gateway, population)
    quotes = {
        name: gateway.ok(
            "researcher", "POST", "/v1/quotes", json={"job": job | {"dataset": dataset}}
        )
        for name, dataset in datasets.items()
    }

    spent = {block["name"]: block["epsilon_reserved"] for block in found["blocks"]}
    assert spent["north"] > 0 == spent["south"]
    assert found["epsilon_reserved"] == spent["north"]
    assert quotes["south"]["budget_before"] == 0 < quotes["north"]["budget_before"]
    assert quotes["south"]["how_many_more"] == quotes["north"]["how_many_more"] + 1
    assert quotes["north"]["mechanism"]["clients"] == HALF
    entry = gateway.ok("owner", "GET", f"/v1/ledger?population={population}&kind=reserve")
    assert entry["items"][0]["leaf"]["block"]["name"] == "north"
    assert gateway.ok("owner", "GET", f"/v1/datasets/{datasets['north']}")["block"] == "north"


def test_members_can_be_compared_with_what_was_sealed(gateway: Gateway) -> None:
    population, _ = wards(gateway)
    path = f"/v1/populations/{population}/blocks"

    plain = gateway.ok("auditor", "GET", path)
    checked = gateway.ok("auditor", "GET", path, params={"check": "true"})

    assert [(block["name"], block["members"]) for block in plain] == [
        ("north", HALF),
        ("south", HALF),
    ]
    assert [block["intact"] for block in checked] == [True, True]


def test_a_person_of_another_block_is_refused_however_her_id_is_written(gateway: Gateway) -> None:
    population = open_population(gateway)
    path = f"/v1/populations/{population}/blocks"
    for name in ("north", "south"):
        body = {"name": name, "clients": 3, "reason": "wards"}
        gateway.ok("owner", "POST", path, json=body)
    register(gateway, manifest(population, name="n", block="north"), ["Ada", "007", "Eve"])

    described = manifest(population, name="s", block="south")
    overlapping = gateway.refused(
        "owner", "POST", "/v1/datasets", **form(described, file_of([" ADA", "7", "Zoe"]))
    )
    unknown = gateway.refused(
        "owner",
        "POST",
        "/v1/datasets",
        **form(described | {"block": "west"}, file_of(["x", "y", "z"])),
    )

    assert (overlapping["code"], overlapping["people"]) == ("conflict", 2)
    assert overlapping["errors"][0]["field"] == "manifest.block"
    assert "Ada" not in json.dumps(overlapping)
    assert (unknown["code"], unknown["errors"][0]["field"]) == ("not_found", "manifest.block")
    listed = gateway.ok("owner", "GET", "/v1/datasets")["items"]
    assert [row["name"] for row in listed] == ["n"], "nothing of a refused file is kept"


def test_an_export_with_blocks_verifies_and_names_nobody(gateway: Gateway) -> None:
    population, datasets = wards(gateway)
    gateway.ok("researcher", "POST", "/v1/jobs", json=job_on(gateway, datasets["south"]))
    with gateway.client("owner") as client:
        export = client.get("/v1/ledger/export").content

    report = verify(export.splitlines())

    assert [problem for problem in report.problems if problem.kind != "unsigned"] == []
    assert report.populations[population].jobs == 1
    key = next(gateway.services.settings.state_dir.glob("block-members.key"))
    assert key.stat().st_mode & 0o077 == 0
    assert key.read_bytes().hex().encode() not in export


def project(house: Gateway, *members: str, name: str = "cardio") -> None:
    house.ok("admin", "POST", "/v1/projects", json={"name": name, "title": "Heart study"})
    for member in members:
        house.ok("admin", "PUT", f"/v1/projects/{name}/members/{house.ids[member]}")


def test_a_project_share_binds_all_its_members_together(gateway: Gateway) -> None:
    clinic = opened(gateway)
    gateway.add("second", "researcher")
    project(gateway, "researcher", "second")
    cost = gateway.ok("researcher", "POST", "/v1/quotes", json={"job": clinic.job()})["epsilon"]
    shares = f"/v1/populations/{clinic.population}/project-quotas"
    gateway.ok("owner", "PUT", f"{shares}/cardio", json={"epsilon": round(1.3 * cost, 6)})
    gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job(project="cardio"))

    refused = gateway.refused("second", "POST", "/v1/jobs", json=clinic.job(project="cardio"))
    quote = gateway.ok("second", "POST", "/v1/quotes", json={"job": clinic.job(project="cardio")})
    alone = gateway.ok("second", "POST", "/v1/jobs", json=clinic.job())

    assert refused["code"] == "quota_exceeded"
    assert refused["errors"][0]["field"] == "budget.project_quota"
    assert refused["left"]["project_quota_epsilon"] == round(1.3 * cost, 6)
    assert (quote["fits"], quote["how_many_more"]) == (False, 0)
    assert alone["status"] == "queued"
    asked = gateway.ok("owner", "GET", "/v1/decisions")["items"][-1]["input"]
    assert asked["job"]["project"] == ""
    seen = [row["input"]["budget"]["project_quota"] for row in _decisions(gateway)]
    assert any(share["limited"] for share in seen)


def test_only_members_charge_a_project(gateway: Gateway) -> None:
    clinic = opened(gateway)
    gateway.add("outsider", "researcher")
    project(gateway, "researcher")
    body = clinic.job(project="cardio")

    stranger = gateway.refused("outsider", "POST", "/v1/jobs", json=body)
    nowhere = gateway.refused("outsider", "POST", "/v1/jobs", json=body | {"project": "none"})
    quoted = gateway.refused("outsider", "POST", "/v1/quotes", json={"job": body})

    assert stranger["code"] == nowhere["code"] == quoted["code"] == "not_found"
    assert stranger["errors"][0]["field"] == "project"
    assert stranger["detail"].replace("cardio", "none") == nowhere["detail"]
    assert gateway.ok("outsider", "GET", "/v1/projects")["items"] == []
    assert [row["name"] for row in gateway.ok("researcher", "GET", "/v1/projects")["items"]] == [
        "cardio"
    ]
    member = f"/v1/projects/cardio/members/{gateway.ids['researcher']}"
    gateway.ok("admin", "DELETE", member)
    assert gateway.refused("researcher", "POST", "/v1/jobs", json=body)["code"] == "not_found"


def test_the_past_knows_the_shares_of_that_time(gateway: Gateway) -> None:
    clinic = opened(gateway)
    project(gateway, "researcher")
    path = f"/v1/populations/{clinic.population}"
    gateway.ok("owner", "PUT", f"{path}/quotas/researcher@example.org", json={"epsilon": 5.0})
    gateway.ok("owner", "PUT", f"{path}/project-quotas/cardio", json={"epsilon": 4.0})
    gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job(project="cardio"))
    now = clinic.budget()
    entries = gateway.ok("owner", "GET", f"/v1/ledger?population={clinic.population}")["items"]
    times = {entry["kind"]: entry["at"] for entry in entries}
    gateway.ok("owner", "PUT", f"{path}/quotas/researcher@example.org", json={"epsilon": 6.0})
    gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job(noise_multiplier=9.0))

    opening = budget(gateway, clinic.population, at=times["open"])
    then = budget(gateway, clinic.population, at=times["reserve"])
    mine = budget(gateway, clinic.population, "researcher", at=times["reserve"])

    assert (opening["quotas"], opening["project_quotas"]) == ([], [])
    assert then | {"at": None} == now
    assert then["quotas"][0]["epsilon"] == 5.0
    assert then["quotas"][0]["epsilon_reserved"] > 0 < then["project_quotas"][0]["epsilon_reserved"]
    assert mine["quotas"] == then["quotas"]
    assert mine["project_quotas"] == then["project_quotas"]


def test_the_future_is_not_told(gateway: Gateway) -> None:
    clinic = opened(gateway)
    path = f"/v1/populations/{clinic.population}/budget?at=2100-01-01T00:00:00Z"
    problem = gateway.refused("owner", "GET", path)
    assert problem["code"] == "invalid_request"
    assert [fault["field"] for fault in problem["errors"]] == ["at"]


def guarded(house: Gateway) -> str:
    house.add("second", "owner")
    return open_population(house, second_person=True)


def proposed(house: Gateway, population: str) -> dict[str, Any]:
    body = {"epsilon": 0.5, "reason": "second study"}
    answer: dict[str, Any] = house.ok(
        "owner", "POST", f"/v1/populations/{population}/grants", json=body
    )
    return answer


def test_a_raise_takes_two_people_and_the_entry_names_both(gateway: Gateway) -> None:
    population = guarded(gateway)
    waiting = proposed(gateway, population)
    path = f"/v1/proposals/{waiting['id']}/decision"

    own = gateway.refused("owner", "POST", path, json={"decision": "approve"})
    assert (waiting["state"], own["code"]) == ("open", "forbidden")
    assert budget(gateway, population)["epsilon"] == 8.0

    done = gateway.ok("second", "POST", path, json={"decision": "approve", "note": "seen"})
    again = gateway.refused("admin", "POST", path, json={"decision": "approve"})

    assert (done["state"], done["decided_by"]) == ("approved", gateway.ids["second"])
    assert again["code"] == "conflict"
    assert budget(gateway, population)["epsilon"] == 8.5
    (entry,) = gateway.ok("owner", "GET", f"/v1/ledger?population={population}&kind=grant")["items"]
    assert (entry["leaf"]["actor"], entry["leaf"]["approved_by"]) == (
        gateway.ids["owner"],
        gateway.ids["second"],
    )
    assert entry["leaf"]["proposal"] == waiting["id"]


@pytest.mark.parametrize(
    ("who", "decision", "state"),
    [("admin", "reject", "rejected"), ("owner", "withdraw", "withdrawn")],
)
def test_a_proposal_that_is_turned_down_changes_nothing(
    gateway: Gateway, who: str, decision: str, state: str
) -> None:
    population = guarded(gateway)
    path = f"/v1/proposals/{proposed(gateway, population)['id']}/decision"

    assert gateway.ok(who, "POST", path, json={"decision": decision})["state"] == state
    assert gateway.refused("second", "POST", path, json={"decision": "approve"})["status"] == 409
    assert budget(gateway, population)["epsilon"] == 8.0


def test_a_second_person_who_comes_too_late_is_none(gateway: Gateway, services: Services) -> None:
    population = guarded(gateway)
    waiting = proposed(gateway, population)
    late = replace(services, clock=lambda: utc_now() + timedelta(hours=73))
    gateway.app.state.services = late
    with late.database.unit_of_work() as session:
        session.connection().exec_driver_sql("UPDATE access_token SET expires_at = 9e15")

    path = f"/v1/proposals/{waiting['id']}/decision"
    refused = gateway.refused("second", "POST", path, json={"decision": "approve"})

    assert refused["code"] == "conflict"
    assert gateway.ok("second", "GET", "/v1/proposals")["items"][0]["state"] == "expired"
    assert budget(gateway, population)["epsilon"] == 8.0


def test_one_person_cannot_let_the_second_go(gateway: Gateway) -> None:
    population = guarded(gateway)
    path = f"/v1/populations/{population}/second-person"
    body = {"needed": False, "reason": "in a hurry"}

    waiting = gateway.ok("owner", "PUT", path, json=body)
    assert waiting["kind"] == "one_person"
    assert gateway.ok("owner", "GET", f"/v1/populations/{population}")["second_person"] is True
    decision = f"/v1/proposals/{waiting['id']}/decision"
    gateway.ok("admin", "POST", decision, json={"decision": "approve"})

    raised = proposed(gateway, population)
    assert raised["epsilon"] == 8.5, "one person is enough now"
    with gateway.client("owner") as client:
        report = verify(client.get("/v1/ledger/export").content.splitlines())
    assert [problem for problem in report.problems if problem.kind != "unsigned"] == []


def _decisions(house: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = house.ok("owner", "GET", "/v1/decisions")["items"]
    return found
