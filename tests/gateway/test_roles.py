"""Who may call what: a matrix generated from the route table, roles first, then tenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from gateway import openapi
from tests.gateway.clinic import JOB, Clinic, manifest, opened
from tests.gateway.conftest import ROLES, Gateway

OPEN = {("POST", "/v1/login"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")} | {
    # For the policy server, which has a token of its own: `test_bundles`.
    ("GET", "/v1/bundles/policies")
}

A, O, R, U = ROLES  # noqa: E741  (admin, owner, researcher, auditor)
EVERYBODY = {A, O, R, U}
MATRIX: dict[tuple[str, str], set[str]] = {
    ("GET", "/v1/me"): EVERYBODY,
    ("POST", "/v1/me/password"): EVERYBODY,
    ("POST", "/v1/users"): {A},
    ("GET", "/v1/users"): {A},
    ("POST", "/v1/tokens"): EVERYBODY,
    ("GET", "/v1/tokens"): EVERYBODY,
    ("DELETE", "/v1/tokens/{token_id}"): EVERYBODY,
    ("POST", "/v1/populations"): {A, O},
    ("GET", "/v1/populations"): EVERYBODY,
    ("GET", "/v1/populations/{population_id}"): EVERYBODY,
    ("GET", "/v1/populations/{population_id}/budget"): EVERYBODY,
    ("POST", "/v1/populations/{population_id}/grants"): {A, O},
    ("POST", "/v1/populations/{population_id}/freeze"): {A, O},
    ("POST", "/v1/populations/{population_id}/unfreeze"): {A, O},
    ("PUT", "/v1/populations/{population_id}/quotas/{researcher}"): {A, O},
    ("PUT", "/v1/populations/{population_id}/project-quotas/{project}"): {A, O},
    ("PUT", "/v1/populations/{population_id}/second-person"): {A, O},
    ("POST", "/v1/populations/{population_id}/blocks"): {A, O},
    ("GET", "/v1/populations/{population_id}/blocks"): {A, O, U},
    ("POST", "/v1/projects"): {A},
    ("GET", "/v1/projects"): EVERYBODY,
    ("PUT", "/v1/projects/{project}/members/{researcher}"): {A},
    ("DELETE", "/v1/projects/{project}/members/{researcher}"): {A},
    ("GET", "/v1/proposals"): {A, O, U},
    ("POST", "/v1/proposals/{proposal_id}/decision"): {A, O},
    ("POST", "/v1/datasets"): {A, O},
    ("GET", "/v1/datasets"): EVERYBODY,
    ("GET", "/v1/datasets/{dataset_id}"): EVERYBODY,
    ("GET", "/v1/datasets/{dataset_id}/mock"): EVERYBODY,
    ("POST", "/v1/datasets/{dataset_id}/freeze"): {A, O},
    ("POST", "/v1/datasets/{dataset_id}/unfreeze"): {A, O},
    ("POST", "/v1/datasets/{dataset_id}/policies"): {A, O},
    ("GET", "/v1/datasets/{dataset_id}/policies"): {A, O, U},
    ("GET", "/v1/datasets/{dataset_id}/policies/{number}"): {A, O, U},
    ("POST", "/v1/datasets/{dataset_id}/policies/{number}/activate"): {A, O},
    ("POST", "/v1/datasets/{dataset_id}/policies/{number}/dry-run"): {A, O},
    ("POST", "/v1/datasets/{dataset_id}/policies/audit"): {A, O, U},
    ("POST", "/v1/datasets/{dataset_id}/policies/{number}/rollback"): {A, O},
    ("POST", "/v1/datasets/{dataset_id}/policies/{number}/shadow"): {A, O},
    ("GET", "/v1/datasets/{dataset_id}/policies/{number}/replay"): {A, O},
    ("POST", "/v1/datasets/{dataset_id}/policies/{number}/replay"): {A, O},
    ("GET", "/v1/datasets/{dataset_id}/policies/{number}/region"): {A, O},
    ("POST", "/v1/datasets/{dataset_id}/policies/{number}/region"): {A, O},
    ("POST", "/v1/quotes"): {O, R},
    ("POST", "/v1/quotes/inverse"): {O, R},
    ("POST", "/v1/quotes/sweep"): {O, R},
    ("POST", "/v1/sweeps"): {R},
    ("POST", "/v1/weights"): {R},
    ("GET", "/v1/weights"): {R},
    ("GET", "/v1/weights/{weights_id}"): {R},
    ("DELETE", "/v1/weights/{weights_id}"): {R},
    ("GET", "/v1/sweeps/{sweep_id}"): EVERYBODY,
    ("POST", "/v1/sweeps/{sweep_id}/cancel"): {A, O, R},
    ("POST", "/v1/jobs"): {R},
    ("GET", "/v1/jobs"): EVERYBODY,
    ("GET", "/v1/jobs/{job_id}"): EVERYBODY,
    ("GET", "/v1/jobs/{job_id}/events"): EVERYBODY,
    ("POST", "/v1/jobs/{job_id}/cancel"): {A, O, R},
    ("POST", "/v1/jobs/{job_id}/approvals"): {A, O, U},
    ("GET", "/v1/jobs/{job_id}/result"): EVERYBODY,
    ("GET", "/v1/jobs/{job_id}/receipt"): EVERYBODY,
    ("GET", "/v1/jobs/{job_id}/metrics"): EVERYBODY,
    ("GET", "/v1/ledger"): {A, O, U},
    ("GET", "/v1/ledger/export"): {A, O, U},
    ("GET", "/v1/ledger/{entry_id}"): {A, O, U},
    ("GET", "/v1/ledger/checkpoint"): EVERYBODY,
    ("GET", "/v1/ledger/keys"): EVERYBODY,
    ("GET", "/v1/ledger/proofs/inclusion"): {A, O, U},
    ("GET", "/v1/ledger/proofs/consistency"): EVERYBODY,
    ("GET", "/v1/statements"): {A, O, U},
    ("GET", "/v1/decisions"): {A, O, U},
    ("GET", "/v1/decisions/{decision_id}"): {A, O, U},
}


# Not listings of a tenant's things; `test_log` holds proofs to their scope.
SAME_FOR_ALL = {"/v1/me", "/v1/tokens", "/v1/ledger/export", "/v1/ledger/checkpoint"} | {
    "/v1/ledger/keys", "/v1/ledger/proofs/inclusion", "/v1/ledger/proofs/consistency",
    "/v1/statements",
}  # fmt: skip


def _routes(app: FastAPI) -> Iterator[tuple[str, str, tuple[str, ...] | None]]:
    for context in openapi.api_routes(app):
        for method in context.methods or ():
            yield method, str(context.path), openapi.roles_of(context)


def test_the_route_table_is_the_documented_matrix(gateway: Gateway) -> None:
    found = {(method, path): roles for method, path, roles in _routes(gateway.app)}

    assert {route for route, roles in found.items() if roles is None} == OPEN
    assert {route: set(roles) for route, roles in found.items() if roles is not None} == MATRIX


@pytest.mark.parametrize("who", [None, *ROLES])
def test_every_route_enforces_its_row(gateway: Gateway, who: str | None) -> None:
    with gateway.client(who) as client:
        for method, path, roles in _routes(gateway.app):
            if roles is None:
                continue
            answer = client.request(method, _filled(path, {}))
            where = f"{method} {path} as {who}: {answer.status_code} {answer.text}"
            if who is None:
                assert answer.status_code == 401, where
                assert answer.headers["www-authenticate"] == "Bearer"
            elif who not in roles:
                assert answer.status_code == 403, where
                assert answer.json()["code"] == "forbidden"
            else:
                assert answer.status_code not in {401, 403}, where


def _filled(path: str, ids: dict[str, str]) -> str:
    """The path with ids of real things where known, else of nothing."""
    values = dict.fromkeys(
        ("token_id", "population_id", "dataset_id", "job_id", "sweep_id"), "nothing_1"
    )
    values |= {"researcher": "researcher@example.org", "number": "1", "entry_id": "1"}
    values |= {"project": "nothing", "proposal_id": "prp_nothing"}
    values |= {"decision_id": "dec_nothing", "weights_id": "wts_nothing"}
    return path.format(**(values | ids))


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    return opened(gateway)


def _bodies(clinic: Clinic) -> dict[str, Any]:
    """A valid body for each route that a stranger could try."""
    job = JOB | {"dataset": clinic.dataset}
    return {
        "/v1/populations": None,  # makes a thing of the stranger's own
        "/v1/me/password": None,
        "/v1/tokens": None,
        "/v1/users": None,
        "/v1/datasets": None,
        "/grants": {"epsilon": 1.0, "reason": "mine"},
        "freeze": {"reason": "mine"},
        "quotas/{researcher}": {"epsilon": 1.0},
        "/project-quotas/{project}": {"epsilon": 1.0},
        "/second-person": {"needed": True, "reason": "mine"},
        "/blocks": {"name": "b", "clients": 1, "reason": "mine"},
        "/v1/projects": None,
        "/members/{researcher}": None,
        "/decision": {"decision": "approve", "note": ""},
        "/policies": {"source": "package mine", "tests": "", "reason": "mine"},
        "/dry-run": {"job": job},
        "/rollback": {"reason": "mine"},
        "/region": {"job": job},
        "/v1/quotes": {"job": job},
        "/v1/quotes/inverse": {"job": job, "solve_for": "rounds"},
        "/v1/quotes/sweep": {"jobs": [job]},
        "/approvals": {"decision": "approve", "note": ""},
    }


def test_another_tenant_cannot_see_or_change_anything(clinic: Clinic) -> None:
    house = clinic.house
    job = house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    token = house.ok("owner", "GET", "/v1/tokens")["items"][0]["id"]
    decision = house.ok("owner", "GET", "/v1/decisions")["items"][0]["id"]
    entries = house.ok("owner", "GET", "/v1/ledger")["items"]
    ids = {
        "population_id": clinic.population,
        "dataset_id": clinic.dataset,
        "job_id": job["id"],
        "token_id": token,
        "decision_id": decision,
        "entry_id": str(entries[0]["id"]),
    }
    before = clinic.budget()
    house.add("stranger", "owner")
    bodies = _bodies(clinic)

    with house.client("stranger") as client:
        for method, path, roles in _routes(house.app):
            if roles is None or "owner" not in roles:
                continue
            ending = next((end for end in bodies if path.endswith(end)), None)
            body = bodies.get(ending or "")
            if "{" not in path and body is None:
                if method == "GET" and path not in SAME_FOR_ALL:
                    assert client.get(path).json()["items"] == [], path
                continue
            answer = client.request(method, _filled(path, ids), json=body)
            assert answer.status_code == 404, f"{method} {path}: {answer.status_code} {answer.text}"
            assert answer.json()["code"] == "not_found"
        export = client.get("/v1/ledger/export").text
    assert clinic.population not in export
    assert clinic.budget() == before
    assert house.ok("owner", "GET", f"/v1/jobs/{job['id']}")["status"] == "queued"


def test_a_researcher_sees_a_data_set_only_while_a_policy_is_active(gateway: Gateway) -> None:
    from tests.gateway.clinic import open_population, publish, upload

    population = open_population(gateway)
    dataset = upload(gateway, manifest(population))["id"]
    hidden = gateway.refused("researcher", "GET", f"/v1/datasets/{dataset}")
    assert hidden["code"] == "not_found"
    assert gateway.ok("researcher", "GET", "/v1/datasets")["items"] == []
    assert gateway.ok("researcher", "GET", "/v1/populations")["items"] == []

    publish(gateway, dataset)

    assert gateway.ok("researcher", "GET", f"/v1/datasets/{dataset}")["id"] == dataset
    assert gateway.ok("researcher", "GET", "/v1/populations")["items"][0]["id"] == population
