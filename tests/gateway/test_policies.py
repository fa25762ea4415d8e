"""Policies over HTTP: drafted, examined, tried, activated, never changed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.clinic import Clinic, manifest, open_population, opened, publish, upload
from tests.gateway.conftest import Gateway
from tests.support.market import TESTS, policy


@pytest.fixture
def dataset(gateway: Gateway) -> str:
    return str(upload(gateway, manifest(open_population(gateway)))["id"])


def _draft(gateway: Gateway, dataset: str, source: str, tests: str = TESTS) -> dict[str, Any]:
    body = {"source": source, "tests": tests, "reason": "for a test"}
    answer: dict[str, Any] = gateway.ok(
        "owner", "POST", f"/v1/datasets/{dataset}/policies", json=body
    )
    return answer


def test_a_draft_is_numbered_examined_and_decides_nothing(gateway: Gateway, dataset: str) -> None:
    first = _draft(gateway, dataset, policy())
    second = _draft(gateway, dataset, policy(rounds=5))

    assert (first["number"], second["number"]) == (1, 2)
    assert first["state"] == "draft"
    assert first["problems"] == []
    assert all(test["passed"] for test in first["results"])
    assert gateway.ok("owner", "GET", f"/v1/datasets/{dataset}")["policy"] is None
    page = gateway.ok("auditor", "GET", f"/v1/datasets/{dataset}/policies")
    assert [row["number"] for row in page["items"]] == [1, 2]
    assert page["items"][0]["source"] is None
    shown = gateway.ok("auditor", "GET", f"/v1/datasets/{dataset}/policies/1")
    assert (shown["source"], shown["tests"]) == (policy(), TESTS)


def test_findings_say_where_and_keep_a_draft_from_activation(
    gateway: Gateway, dataset: str
) -> None:
    source = policy().replace("input.job.purpose", "input.job.purpos")
    draft = _draft(gateway, dataset, source)
    path = f"/v1/datasets/{dataset}/policies/{draft['number']}"

    refused = gateway.refused("owner", "POST", f"{path}/activate")

    finding = next(item for item in draft["findings"] if item["severity"] == "error")
    assert finding["line"] > 1
    assert (refused["status"], refused["code"]) == (422, "policy_refused")
    assert refused["errors"]
    assert gateway.ok("owner", "GET", path)["state"] == "draft"
    assert gateway.ok("owner", "GET", f"/v1/datasets/{dataset}")["policy"] is None


def test_activation_needs_the_owners_own_tests(gateway: Gateway, dataset: str) -> None:
    draft = _draft(gateway, dataset, policy(), tests="")

    refused = gateway.refused(
        "owner", "POST", f"/v1/datasets/{dataset}/policies/{draft['number']}/activate"
    )

    assert refused["code"] == "policy_refused"
    assert refused["errors"][0]["field"] == "tests"


def test_the_next_activation_supersedes_and_an_old_one_does_not_come_back(
    gateway: Gateway, dataset: str
) -> None:
    publish(gateway, dataset)
    publish(gateway, dataset, policy(rounds=5))

    page = gateway.ok("owner", "GET", f"/v1/datasets/{dataset}/policies")
    again = gateway.refused("owner", "POST", f"/v1/datasets/{dataset}/policies/1/activate")

    assert [row["state"] for row in page["items"]] == ["superseded", "active"]
    assert (again["status"], again["code"]) == (409, "conflict")


def test_a_dry_run_decides_about_new_and_past_requests_and_records_nothing(
    gateway: Gateway,
) -> None:
    clinic: Clinic = opened(gateway)
    job = gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    draft = _draft(gateway, clinic.dataset, policy(rounds=2))
    path = f"/v1/datasets/{clinic.dataset}/policies/{draft['number']}/dry-run"
    decisions = gateway.ok("owner", "GET", "/v1/decisions")
    before = clinic.budget()

    new = gateway.ok("owner", "POST", path, json={"job": clinic.job()})
    allowed = gateway.ok("owner", "POST", path, json={"job": clinic.job(rounds=2)})
    past = gateway.ok("owner", "POST", path, json={"job": job["id"]})
    unknown = gateway.refused("owner", "POST", path, json={"job": "job_nothing"})
    malformed = gateway.refused("owner", "POST", path, json={"job": clinic.job(rounds="2")})

    assert (new["outcome"], new["code"]) == ("deny", "policy_denied")
    assert new["rules"][0]["code"] == past["rules"][0]["code"] == "too_many_rounds"
    assert allowed["outcome"] == "allow"
    assert past["outcome"] == "deny"
    assert past["input"]["job"]["rounds"] == 4
    assert unknown["code"] == "not_found"
    assert any("rounds" in error["field"] for error in malformed["errors"])
    assert gateway.ok("owner", "GET", "/v1/decisions") == decisions
    assert clinic.budget() == before


def test_a_draft_can_be_tried_before_any_policy_is_active(gateway: Gateway, dataset: str) -> None:
    from tests.gateway.clinic import JOB

    draft = _draft(gateway, dataset, policy())
    path = f"/v1/datasets/{dataset}/policies/{draft['number']}/dry-run"

    answer = gateway.ok("owner", "POST", path, json={"job": JOB | {"dataset": dataset}})

    assert answer["outcome"] == "allow"


FOR_PEOPLE = """package clinic

import data.gateway.answer
import data.gateway.people
import data.gateway.quota

deny contains people.purpose_in({"research"})

deny contains people.role_in({"researcher"})

deny contains people.organisation_in({"default"})

deny contains quota.jobs_at_most(1)

decision := answer.of(deny, set(), set())
"""


def test_a_dry_run_is_asked_in_the_name_of_a_researcher(gateway: Gateway) -> None:
    clinic: Clinic = opened(gateway)
    gateway.add("rosa", "researcher")
    gateway.ok("rosa", "POST", "/v1/jobs", json=clinic.job())
    draft = _draft(gateway, clinic.dataset, FOR_PEOPLE)
    path = f"/v1/datasets/{clinic.dataset}/policies/{draft['number']}/dry-run"
    body = {"job": clinic.job()}

    sample = gateway.ok("owner", "POST", path, json=body)
    fresh = gateway.ok(
        "owner", "POST", path, json=body | {"as_researcher": "Researcher@Example.org"}
    )
    rosa = gateway.ok("owner", "POST", path, json=body | {"as_researcher": gateway.ids["rosa"]})

    assert (sample["outcome"], sample["rules"]) == ("allow", [])
    subject = sample["input"]["subject"]
    assert (subject["roles"], subject["organisation"]) == (["researcher"], "default")
    assert subject["id"] not in gateway.ids.values()
    assert sample["input"]["history"]["jobs_by_subject"] == 0
    assert (fresh["outcome"], fresh["input"]["subject"]["id"]) == (
        "allow",
        gateway.ids["researcher"],
    )
    assert rosa["input"]["history"]["jobs_by_subject"] == 1
    assert [rule["code"] for rule in rosa["rules"]] == ["jobs_above_limit"]


def test_a_dry_run_knows_no_other_people(gateway: Gateway) -> None:
    clinic: Clinic = opened(gateway)
    job = gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    path = f"/v1/datasets/{clinic.dataset}/policies/1/dry-run"

    for named in ("nobody@example.org", "usr_nobody", gateway.ids["owner"]):
        body = {"job": clinic.job(), "as_researcher": named}
        refused = gateway.refused("owner", "POST", path, json=body)
        assert (refused["code"], refused["errors"][0]["field"]) == ("not_found", "as_researcher")
    past = {"job": job["id"], "as_researcher": gateway.ids["researcher"]}
    refused = gateway.refused("owner", "POST", path, json=past)
    assert (refused["code"], refused["errors"][0]["field"]) == ("invalid_request", "as_researcher")


def test_decisions_show_the_question_and_the_answer(gateway: Gateway) -> None:
    clinic = opened(gateway)
    job = gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    gateway.refused("researcher", "POST", "/v1/jobs", json=clinic.job(purpose="ads"))

    page = gateway.ok("auditor", "GET", "/v1/decisions")
    of_job = gateway.ok("owner", "GET", f"/v1/decisions?job={job['id']}")

    assert [row["outcome"] for row in page["items"]] == ["allow", "deny"]
    assert [row["job"] for row in of_job["items"]] == [job["id"]]
    shown = gateway.ok("owner", "GET", f"/v1/decisions/{page['items'][1]['id']}")
    assert shown["input"]["job"]["purpose"] == "ads"
    assert shown["verdict"]["denials"][0]["code"] == "purpose_unknown"
