"""What-if replay, allowed region, audit, rollback and shadow over HTTP; nothing of it records."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from gateway import dryrun
from jobs import region as regions
from jobs import situation
from jobs.judgement import judge, propose
from jobs.principal import Principal
from policies.tables import DecisionRow, PolicyRevision
from privacy_gateway.cli import policies
from privacy_gateway.schemas import JobRequest, parse
from tests.gateway.clinic import Clinic, opened, publish
from tests.gateway.conftest import Gateway
from tests.support.market import TESTS, policy


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    """A clinic with one admitted job and two refusals."""
    made = opened(gateway)
    gateway.ok("researcher", "POST", "/v1/jobs", json=made.job())
    gateway.refused("researcher", "POST", "/v1/jobs", json=made.job(purpose="ads"))
    gateway.refused("researcher", "POST", "/v1/jobs", json=made.job(rounds=2000))
    return made


def _path(clinic: Clinic, number: int | str, what: str = "") -> str:
    return f"/v1/datasets/{clinic.dataset}/policies/{number}{what}"


def _draft(clinic: Clinic, source: str) -> dict[str, Any]:
    body = {"source": source, "tests": TESTS, "reason": "tried"}
    answer: dict[str, Any] = clinic.house.ok(
        "owner", "POST", f"/v1/datasets/{clinic.dataset}/policies", json=body
    )
    return answer


def test_a_replay_lists_what_a_draft_would_have_changed_newly_allowed_first(
    clinic: Clinic,
) -> None:
    wide = policy().replace('"research"', '"ads"')
    number = _draft(clinic, wide)["number"]
    before = clinic.house.ok("owner", "GET", "/v1/decisions")

    found = clinic.house.ok("owner", "GET", _path(clinic, number, "/replay?last=10"))
    posted = clinic.house.ok("owner", "POST", _path(clinic, number, "/replay?last=10"))
    newest = clinic.house.ok("owner", "GET", _path(clinic, number, "/replay?last=1"))

    assert found == posted
    assert [flip["change"] for flip in found["flips"]] == [
        "newly_allowed",
        "newly_denied",
        "changed",
    ]
    assert (found["decisions"], found["same"]) == (3, 0)
    allowed, denied, changed = found["flips"]
    assert (changed["before"], changed["after"]) == ("deny", "deny")
    assert (allowed["purpose"], allowed["before"], allowed["after"]) == ("ads", "deny", "allow")
    assert denied["denials"][0]["code"] == "purpose_unknown"
    assert newest["decisions"] == 1
    assert clinic.house.ok("owner", "GET", "/v1/decisions") == before


def test_a_replay_of_the_active_text_changes_nothing(clinic: Clinic) -> None:
    found = clinic.house.ok("owner", "GET", _path(clinic, 1, "/replay"))
    assert (found["flips"], found["same"]) == ([], 3)


def test_going_back_makes_a_new_revision_with_the_old_text(clinic: Clinic) -> None:
    house = clinic.house
    publish(house, clinic.dataset, policy(rounds=2))
    refused = house.refused("researcher", "POST", "/v1/jobs", json=clinic.job())
    assert refused["code"] == "policy_denied"

    back = house.ok("owner", "POST", _path(clinic, 1, "/rollback"), json={"reason": "too strict"})

    assert (back["number"], back["state"], back["stage"]) == (3, "active", "active")
    assert back["digest"] == house.ok("owner", "GET", _path(clinic, 1))["digest"]
    assert back["reason"] == "rollback to revision 1: too strict"
    states = house.ok("owner", "GET", f"/v1/datasets/{clinic.dataset}/policies")["items"]
    assert [row["state"] for row in states] == ["superseded", "superseded", "active"]
    house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())


def test_only_superseded_revisions_come_back(clinic: Clinic) -> None:
    draft = _draft(clinic, policy(rounds=5))["number"]
    for number in (1, draft):
        path = _path(clinic, number, "/rollback")
        refused = clinic.house.refused("owner", "POST", path, json={"reason": "why"})
        assert refused["code"] == "conflict"
    assert clinic.house.ok("owner", "GET", _path(clinic, 1))["state"] == "active"


def test_stages_say_how_far_a_draft_has_come(clinic: Clinic) -> None:
    good = _draft(clinic, policy(rounds=5))
    typo = _draft(clinic, policy().replace("input.job.purpose", "input.job.purpos"))
    loose = _draft(clinic, policy().replace('input.job.purpose != "research"', "false"))

    assert [row["stage"] for row in (good, typo, loose)] == ["tested", "draft", "checked"]
    assert typo["coverage"] is None
    assert good["coverage"]["percent"] < 100
    assert any("approvals" in rule for rule in good["coverage"]["rules"])
    assert clinic.house.ok("owner", "GET", _path(clinic, loose["number"]))["stage"] == "checked"
    refused = clinic.house.refused("owner", "POST", _path(clinic, loose["number"], "/shadow"))
    assert refused["code"] == "conflict"


def test_a_shadow_tells_what_it_would_have_done_since(clinic: Clinic) -> None:
    house, number = clinic.house, _draft(clinic, policy(rounds=2))["number"]
    never = house.refused("owner", "GET", _path(clinic, number, "/replay?since=shadow"))
    assert never["code"] == "conflict"

    assert house.ok("owner", "POST", _path(clinic, number, "/shadow"))["stage"] == "shadow"
    house.ok("researcher", "POST", "/v1/jobs", json=clinic.job(rounds=3))
    since = house.ok("owner", "GET", _path(clinic, number, "/replay?since=shadow"))

    assert since["decisions"] == 1
    assert [flip["change"] for flip in since["flips"]] == ["newly_denied"]
    house.ok("owner", "POST", _path(clinic, number, "/activate"))


def test_the_past_repeats_byte_for_byte_and_a_changed_answer_is_found(clinic: Clinic) -> None:
    publish(clinic.house, clinic.dataset, policy(rounds=5))
    clinic.house.ok("researcher", "POST", "/v1/jobs", json=clinic.job(rounds=5))

    whole = clinic.house.ok("auditor", "POST", _path(clinic, "audit"))
    assert (whole["ok"], whole["decisions"], whole["same"]) == (True, 4, 4)

    table = DecisionRow.__table__  # type: ignore[attr-defined]
    with clinic.house.services.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER decision_no_update")
        newest = sa.select(sa.func.max(table.c.id)).scalar_subquery()
        forged = table.update().where(table.c.id == newest).values(digest="0" * 64)
        connection.execute(forged)
    broken = clinic.house.ok("owner", "POST", _path(clinic, "audit?last=2"))
    assert (broken["ok"], broken["different"], broken["decisions"]) == (False, 1, 2)
    assert broken["findings"][0]["standing"] == "different"


def test_a_text_changed_behind_the_gateways_back_is_found(clinic: Clinic) -> None:
    table = PolicyRevision.__table__  # type: ignore[attr-defined]
    with clinic.house.services.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER policy_revision_fixed")
        connection.execute(table.update().values(source=policy(rounds=3)))
    found = clinic.house.ok("auditor", "POST", _path(clinic, "audit"))
    assert not found["ok"]
    assert found["different"] >= 1


AXES = {
    "rounds": [1, 4, 2000],
    "noise_multipliers": [0.2, 2.0],
    "clients_per_round": [1, 20],
}


def test_the_region_agrees_with_the_judgement_of_an_admission_at_every_point(
    clinic: Clinic,
) -> None:
    before = clinic.budget()
    body = {"job": clinic.job()} | AXES
    found = clinic.house.ok("owner", "POST", _path(clinic, 1, "/region"), json=body)

    assert len(found["points"]) == 12 == sum(found["counts"].values())
    services, owner = clinic.house.services, dryrun.sample_researcher
    asking = owner(Principal("usr_o", "o@example.org", "owner"))
    with services.database.read() as session:
        known = situation.read(session, asking, clinic.dataset)
    for point in found["points"]:
        moved = {name: point[name] for name in ("rounds", "noise_multiplier", "clients_per_round")}
        request = parse(JobRequest, clinic.job(**moved))
        proposal = propose(services.settings, known, request)
        judged = judge(services, asking, known, proposal, request_id="dry", now=services.clock())
        assert (point["standing"] == "allowed") == judged.accepted, point
        assert point["codes"] == list(dict.fromkeys(rule.code for rule in judged.rules))
    assert {point["standing"] for point in found["points"]} >= {"allowed", "denied"}
    assert clinic.budget() == before


def test_the_region_comes_as_table_and_as_plot(clinic: Clinic) -> None:
    path = _path(clinic, 1, "/region")
    with clinic.house.client("owner") as client:
        table = client.get(f"{path}?format=table")
        plot = client.post(f"{path}?format=svg", json=AXES)
    assert table.headers["content-type"].startswith("text/plain")
    assert "clients_per_round" in table.text
    assert "● allowed" in table.text
    assert plot.headers["content-type"] == "image/svg+xml"
    drawn = ET.fromstring(plot.text)
    names = [element.tag.rpartition("}")[2] for element in drawn.iter()]
    assert names.count("title") == 13
    assert not {"script", "style", "image", "use"} & set(names)


def test_a_region_is_bounded_and_needs_something_to_start_from(
    clinic: Clinic, gateway: Gateway
) -> None:
    path = _path(clinic, 1, "/region")
    many = {
        "rounds": list(range(1, 51)),
        "noise_multipliers": [1.0 + step / 10 for step in range(50)],
    }
    refused = gateway.refused("owner", "POST", path, json=many)
    assert (refused["code"], refused["errors"][0]["field"]) == ("invalid_request", "axes")
    bodies: list[dict[str, Any]] = [
        {"rounds": []},
        {"rounds": [0]},
        {"noise_multipliers": ["1"]},
        {"more": 1},
    ]
    for body in bodies:
        assert gateway.refused("owner", "POST", path, json=body)["code"] == "invalid_request"
    assert gateway.refused("owner", "POST", path, json={"job": "job_x"})["code"] == "not_found"
    assert regions.MOST_POINTS == 2000


def test_the_command_line_replays_draws_goes_back_and_audits(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = clinic.house
    publish(house, clinic.dataset, policy(rounds=2))
    monkeypatch.setenv("PRIVACY_GATEWAY_URL", house.url)
    monkeypatch.setenv("PRIVACY_GATEWAY_TOKEN", house.tokens["owner"])
    job = house.ok("owner", "GET", "/v1/jobs")["items"][0]["id"]
    plot = tmp_path / "region.svg"

    def run(*words: str) -> str:
        done = CliRunner().invoke(policies.app, [words[0], clinic.dataset, *words[1:]])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "newly_denied" in run("replay", "2", "--last", "5")
    assert "too_many_rounds" in run("dry-run", "2", "--past", job)
    assert "● allowed" in run("region", "2", "--svg", str(plot))
    assert ET.parse(plot).getroot().tag.endswith("svg")
    assert "3" in run("rollback", "1", "--reason", "too strict")
    assert '"ok": true' in run("audit", "--format", "json")
