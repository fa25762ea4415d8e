"""Text that a database or UTF-8 has no bytes for: refused by field, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import schema
from gateway.settings import GatewaySettings
from jobs.services import Services
from kit.db import Database
from policies.engine import PolicyEngine
from tests.gateway.conftest import ROLES, Gateway, running

JSON = "application/json"


@pytest.fixture
def house(settings: GatewaySettings, database: Database, engine: PolicyEngine) -> Iterator[Gateway]:
    settings.state_dir.mkdir()
    with database.engine.begin() as connection:  # its tables are those of this code
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{schema.head()}')")
    with running(settings, Services(settings, database, engine)) as gateway:
        for role in ROLES:
            gateway.add(role, role)
        yield gateway


def test_a_zero_byte_is_refused_wherever_it_stands(house: Gateway) -> None:
    asked: list[tuple[str | None, str, str, dict[str, Any], str]] = [
        ("auditor", "GET", "/v1/jobs/job%00", {}, "path"),
        ("auditor", "GET", "/v1/datasets/%00", {}, "path"),
        ("auditor", "GET", "/v1/populations/%00/budget", {}, "path"),
        ("auditor", "GET", "/v1/decisions/%00", {}, "path"),
        ("researcher", "GET", "/v1/sweeps/%00", {}, "path"),
        ("auditor", "GET", "/v1/jobs?dataset=%00", {}, "query"),
        ("auditor", "GET", "/v1/jobs?after=a%00b", {}, "query"),
        ("auditor", "GET", "/v1/ledger?population=%00", {}, "query"),
        ("admin", "POST", "/v1/users", _user("a\x00@example.org"), "email"),
        (None, "POST", "/v1/login", {"email": "a\x00@b.org", "password": "x" * 20}, "email"),
        ("owner", "POST", "/v1/jobs/job_1/approvals", _approval("\x00"), "note"),
        ("owner", "POST", "/v1/proposals/pro_1/decision", _approval("a\x00"), "note"),
    ]
    for who, method, path, body, field in asked:
        problem = house.refused(who, method, path, json=body or None)
        assert problem["code"] == "invalid_request", path
        assert [error["field"] for error in problem["errors"]] == [field], path


def test_the_six_letters_of_its_escape_are_text_like_any(house: Gateway) -> None:
    problem = house.refused(
        None, "POST", "/v1/login", json={"email": r"a\u0000@b.org", "password": "x" * 20}
    )
    assert problem["code"] == "unauthenticated"


def _user(email: str) -> dict[str, Any]:
    return {"email": email, "password": "x" * 20, "role": "owner"}


def _approval(note: str) -> dict[str, Any]:
    return {"decision": "approve", "note": note}


def test_half_a_character_is_refused_wherever_it_stands(house: Gateway) -> None:
    half = "\ud800"
    asked: list[tuple[str | None, str, dict[str, Any], str]] = [
        (None, "/v1/login", {"email": f"a{half}@b.org", "password": "x" * 20}, "email"),
        (None, "/v1/login", {"email": "a@b.org", "password": f"x{half}"}, "password"),
        (None, "/v1/login", {half: 1}, "body"),
        (None, "/v1/login", {half: float("nan")}, "\\ud800"),
        ("admin", "/v1/users", _user(f"a{half}@b.org"), "email"),
        ("admin", "/v1/projects", {"name": "p", "title": half}, "title"),
        ("researcher", "/v1/tokens", {"label": half}, "label"),
        ("researcher", "/v1/jobs", {"purpose": half, half: 2}, "purpose"),
        ("owner", "/v1/datasets", {"manifest": {"tags": ["a", half]}}, "manifest.tags[1]"),
        ("owner", "/v1/datasets/ds_1/policies", {"source": half}, "source"),
    ]
    for who, path, body, field in asked:
        problem = house.refused(
            who, "POST", path, content=json.dumps(body), headers={"Content-Type": JSON}
        )
        assert problem["code"] == "invalid_request", path
        assert [error["field"] for error in problem["errors"]] == [field], path


def test_two_halves_that_belong_together_are_a_character(house: Gateway) -> None:
    body = json.dumps({"label": "\U0001f512", "hours": 1})
    assert "\\ud83d\\udd12" in body
    made = house.ok(
        "researcher", "POST", "/v1/tokens", content=body, headers={"Content-Type": JSON}
    )
    assert made["label"] == "\U0001f512"
