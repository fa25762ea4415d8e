"""Populations and their budgets over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.clinic import open_population, opened
from tests.gateway.conftest import Gateway


def test_a_population_opens_with_its_whole_budget(gateway: Gateway) -> None:
    population = open_population(gateway)

    budget = gateway.ok("owner", "GET", f"/v1/populations/{population}/budget")

    assert (budget["epsilon"], budget["delta"]) == (8.0, 1e-4)
    assert (budget["epsilon_spent"], budget["epsilon_reserved"]) == (0, 0)
    assert budget["epsilon_remaining"] == 8.0
    assert len(budget["orders"]) == len(budget["limit"]) == 16
    assert budget["charged"] == budget["reserved"] == [0] * 16
    assert budget["quotas"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": "8"}, "epsilon"),
        ({"epsilon": True}, "epsilon"),
        ({"epsilon": 1e5}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 0.5}, "delta"),
        ({"delta": 9e-4, "clients": 1000}, "delta"),
        ({"clients": 0}, "clients"),
        ({"clients": 10.0}, "clients"),
        ({"clients": 10**12}, "clients"),
        ({"name": ""}, "name"),
        ({"spent": 0}, "spent"),
    ],
)
def test_a_wrong_budget_is_refused_by_field(
    gateway: Gateway, change: dict[str, Any], field: str
) -> None:
    body = {"name": "p", "privacy_unit": "p", "clients": 60, "epsilon": 8.0, "delta": 1e-4}

    problem = gateway.refused("owner", "POST", "/v1/populations", json=body | change)

    assert problem["status"] == 422
    assert problem["errors"][0]["field"] == field
    assert gateway.ok("owner", "GET", "/v1/populations")["items"] == []


def test_a_grant_raises_the_budget_and_is_an_entry(gateway: Gateway) -> None:
    population = open_population(gateway)
    path = f"/v1/populations/{population}"

    raised = gateway.ok(
        "owner", "POST", f"{path}/grants", json={"epsilon": 0.5, "reason": "second study"}
    )

    assert raised["epsilon"] == 8.5
    entries = gateway.ok("owner", "GET", f"/v1/ledger?population={population}&kind=grant")["items"]
    assert [entry["leaf"]["reason"] for entry in entries] == ["second study"]
    no_reason = gateway.refused("owner", "POST", f"{path}/grants", json={"epsilon": 1.0})
    assert no_reason["errors"][0]["field"] == "reason"


def test_the_odometer_can_be_read_in_the_past(gateway: Gateway) -> None:
    clinic = opened(gateway)
    path = f"/v1/populations/{clinic.population}/budget"
    gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    opening = gateway.ok("owner", "GET", f"/v1/ledger?population={clinic.population}")["items"][0]

    now = gateway.ok("owner", "GET", path)
    then = gateway.ok("owner", "GET", path, params={"at": opening["at"]})
    never = gateway.refused("owner", "GET", path, params={"at": "2001-01-01T00:00:00Z"})
    vague = gateway.refused("owner", "GET", path, params={"at": "2001-01-01T00:00:00"})

    assert now["epsilon_reserved"] > 0
    assert (then["epsilon_reserved"], then["at"]) == (0, opening["at"])
    assert never["code"] == "not_found"
    assert vague["errors"][0]["field"] == "at"


def test_freezing_twice_is_a_conflict(gateway: Gateway) -> None:
    path = f"/v1/populations/{open_population(gateway)}"
    body = {"reason": "audit"}

    assert gateway.ok("owner", "POST", f"{path}/freeze", json=body)["frozen"] is True
    assert gateway.refused("owner", "POST", f"{path}/freeze", json=body)["status"] == 409
    assert gateway.ok("owner", "POST", f"{path}/unfreeze", json=body)["frozen"] is False


def test_a_researcher_sees_the_budget_but_only_their_own_quota(gateway: Gateway) -> None:
    clinic = opened(gateway)
    gateway.add("rival", "researcher")
    quotas = f"/v1/populations/{clinic.population}/quotas"
    gateway.ok("owner", "PUT", f"{quotas}/researcher@example.org", json={"epsilon": 2.0})
    gateway.ok("owner", "PUT", f"{quotas}/{gateway.ids['rival']}", json={"epsilon": 3.0})
    path = f"/v1/populations/{clinic.population}/budget"

    mine = gateway.ok("researcher", "GET", path)["quotas"]
    everybodys = gateway.ok("owner", "GET", path)["quotas"]

    assert [(quota["researcher"], quota["epsilon"]) for quota in mine] == [
        (gateway.ids["researcher"], 2.0)
    ]
    assert {quota["epsilon"] for quota in everybodys} == {2.0, 3.0}
    for nobody in ("nobody@example.org", "auditor@example.org", "usr_nothing"):
        problem = gateway.refused("owner", "PUT", f"{quotas}/{nobody}", json={"epsilon": 1.0})
        assert problem["code"] == "not_found"


def test_populations_are_paged(gateway: Gateway) -> None:
    made = [open_population(gateway, name=f"p{number}") for number in range(5)]

    seen: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": 2} | ({"after": after} if after else {})
        page = gateway.ok("owner", "GET", "/v1/populations", params=params)
        seen += [row["id"] for row in page["items"]]
        after = page["next"]
        if after is None:
            break

    assert sorted(seen) == sorted(made)
    assert seen == sorted(seen)
