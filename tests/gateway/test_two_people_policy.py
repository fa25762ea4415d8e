"""A looser policy takes two people where the population asks for them; a stricter one takes one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from gateway import schema
from gateway.settings import GatewaySettings
from jobs.services import Services
from kit.clock import utc_now
from kit.db import Database
from policies.engine import PolicyEngine
from privacy_gateway.cli import policies
from privacy_gateway.verify import verify
from tests.gateway.clinic import Clinic, opened
from tests.gateway.conftest import ROLES, Gateway, running
from tests.support.market import TESTS, policy


@pytest.fixture
def house(settings: GatewaySettings, database: Database, engine: PolicyEngine) -> Iterator[Gateway]:
    """A gateway on either database, which has every table and is told of which revision."""
    settings.state_dir.mkdir()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        stamp = sa.text("INSERT INTO alembic_version VALUES (:head)")
        connection.execute(stamp, {"head": schema.head()})
    with running(settings, Services(settings, database, engine)) as made:
        for role in ROLES:
            made.add(role, role)
        made.add("second", "owner")
        yield made


@pytest.fixture
def clinic(house: Gateway) -> Clinic:
    """A clinic with a past, whose owner asks for a second person from now on."""
    made = opened(house)
    house.ok("researcher", "POST", "/v1/jobs", json=made.job())
    house.ok("researcher", "POST", "/v1/jobs", json=made.job(rounds=2))
    need(made)
    return made


def need(clinic: Clinic) -> None:
    body = {"needed": True, "reason": "house rule"}
    path = f"/v1/populations/{clinic.population}/second-person"
    clinic.house.ok("owner", "PUT", path, json=body)


def path(clinic: Clinic, number: int | str, what: str = "") -> str:
    return f"/v1/datasets/{clinic.dataset}/policies/{number}{what}"


def draft(clinic: Clinic, source: str) -> int:
    body = {"source": source, "tests": TESTS, "reason": "tried"}
    answer = clinic.house.ok("owner", "POST", path(clinic, "")[:-1], json=body)
    return int(answer["number"])


def activate(clinic: Clinic, number: int) -> tuple[int, dict[str, Any]]:
    with clinic.house.client("owner") as client:
        answer = client.post(path(clinic, number, "/activate"))
    return answer.status_code, answer.json()


def state(clinic: Clinic, number: int) -> str:
    return str(clinic.house.ok("owner", "GET", path(clinic, number))["state"])


def decide(
    clinic: Clinic, who: str, waiting: dict[str, Any], word: str = "approve"
) -> dict[str, Any]:
    with clinic.house.client(who) as client:
        answer = client.post(
            f"/v1/proposals/{waiting['id']}/decision", json={"decision": word, "note": "seen"}
        )
    found: dict[str, Any] = answer.json()
    return found


def test_a_stricter_text_decides_at_once_and_the_way_back_waits(clinic: Clinic) -> None:
    house = clinic.house
    status, done = activate(clinic, draft(clinic, policy(rounds=3)))
    assert (status, done["state"]) == (200, "active")

    with house.client("owner") as client:
        answer = client.post(path(clinic, 1, "/rollback"), json={"reason": "too strict"})
    waiting = answer.json()

    assert (answer.status_code, waiting["kind"], waiting["state"]) == (
        202,
        "activate_policy",
        "open",
    )
    assert waiting["reason"] == "rollback to revision 1: too strict"
    assert (waiting["body"]["number"], waiting["body"]["active"]) == (3, 2)
    assert waiting["body"]["loosened"] > 0
    assert [state(clinic, number) for number in (1, 2, 3)] == ["superseded", "active", "draft"]
    refused = house.refused("researcher", "POST", "/v1/jobs", json=clinic.job())
    assert refused["code"] == "policy_denied"

    assert decide(clinic, "owner", waiting)["code"] == "forbidden"
    assert state(clinic, 2) == "active"
    assert decide(clinic, "second", waiting)["state"] == "approved"
    shown = house.ok("owner", "GET", path(clinic, 3))
    assert (shown["state"], shown["activated_by"]) == ("active", house.ids["owner"])
    house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    assert decide(clinic, "admin", waiting)["code"] == "conflict"

    notes = house.ok("owner", "GET", f"/v1/ledger?population={clinic.population}&kind=note")
    leaf = notes["items"][-1]["leaf"]
    told = leaf["facts"]
    assert told["action"] == "activate_policy approved"
    assert (told["proposed_by"], leaf["actor"]) == (house.ids["owner"], house.ids["second"])
    with house.client("owner") as client:
        report = verify(client.get("/v1/ledger/export").content.splitlines())
    assert [problem for problem in report.problems if problem.kind != "unsigned"] == []


@pytest.mark.parametrize(
    ("who", "word", "ends"),
    [("admin", "reject", "rejected"), ("owner", "withdraw", "withdrawn")],
)
def test_what_is_turned_down_changes_nothing(
    clinic: Clinic, who: str, word: str, ends: str
) -> None:
    number = draft(clinic, policy(rounds=2000))
    status, waiting = activate(clinic, number)

    assert status == 202
    assert decide(clinic, who, waiting, word)["state"] == ends
    assert decide(clinic, "second", waiting)["code"] == "conflict"
    assert (state(clinic, 1), state(clinic, number)) == ("active", "draft")


def test_who_comes_too_late_approves_nothing(clinic: Clinic) -> None:
    number = draft(clinic, policy(rounds=2000))
    _, waiting = activate(clinic, number)
    late = replace(clinic.house.services, clock=lambda: utc_now() + timedelta(hours=73))
    clinic.house.app.state.services = late
    with late.database.unit_of_work() as session:
        expires = "UPDATE access_token SET expires_at = 9000000000000000"
        session.connection().exec_driver_sql(expires)

    assert decide(clinic, "second", waiting)["code"] == "conflict"
    listed = clinic.house.ok("second", "GET", "/v1/proposals")["items"]
    assert listed[-1]["state"] == "expired"
    assert state(clinic, number) == "draft"


def test_without_a_past_the_first_text_waits_and_an_approval_examines_it_again(
    gateway: Gateway, services: Services
) -> None:
    gateway.add("second", "owner")
    from tests.gateway.clinic import manifest, open_population, upload

    population = open_population(gateway, second_person=True)
    clinic = Clinic(gateway, population, str(upload(gateway, manifest(population))["id"]))
    typo = policy().replace("input.job.purpose", "input.job.purpos")
    assert activate(clinic, draft(clinic, typo))[1]["code"] == "policy_refused"
    assert gateway.ok("owner", "GET", "/v1/proposals")["items"] == []
    status, waiting = activate(clinic, draft(clinic, policy()))
    assert (status, waiting["body"]["past_inputs"], waiting["body"]["active"]) == (202, 0, 0)

    # The gateway's floors have moved since: the text has to say by itself what they said.
    low = services.settings.model_copy(update={"minimum_noise_multiplier": 0.01})
    high, gateway.app.state.services = services, replace(services, settings=low)
    refused = decide(clinic, "second", waiting)
    assert refused["code"] == "policy_refused", "the approval met another examination"
    assert state(clinic, 2) == "draft"

    gateway.app.state.services = high
    assert decide(clinic, "second", waiting)["state"] == "approved"
    assert state(clinic, 2) == "active"


def test_a_text_found_stricter_beside_one_revision_does_not_pass_beside_another(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway import activating

    middle, strict = draft(clinic, policy(rounds=5)), draft(clinic, policy(rounds=3))
    before = activating._bring_to_engines

    def meanwhile(services: Any, examiners: Any, stored: Any) -> None:
        before(services, examiners, stored)
        if stored.number == middle:
            assert activate(clinic, strict)[0] == 200

    monkeypatch.setattr(activating, "_bring_to_engines", meanwhile)
    status, refused = activate(clinic, middle)

    assert (status, refused["code"]) == (409, "conflict")
    assert (state(clinic, middle), state(clinic, strict)) == ("draft", "active")


def test_the_command_line_says_who_has_to_agree(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = draft(clinic, policy(rounds=2000))
    monkeypatch.setenv("PRIVACY_GATEWAY_URL", clinic.house.url)
    monkeypatch.setenv("PRIVACY_GATEWAY_TOKEN", clinic.house.tokens["owner"])

    said = CliRunner().invoke(policies.app, ["activate", clinic.dataset, str(number)])

    waiting = clinic.house.ok("owner", "GET", "/v1/proposals")["items"][-1]
    assert said.exit_code == 0, said.output
    assert f"privacy-gateway proposal decide {waiting['id']} approve" in said.output
