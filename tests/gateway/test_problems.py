"""Every failure of every route has one shape, and tells nothing it should not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from gateway import openapi, problems
from gateway.settings import GatewaySettings
from jobs.services import Services
from kit.db import Database
from privacy_gateway.errors import CODES, FieldError, Refused
from tests.gateway.conftest import Gateway, running

MEMBERS = {"type", "title", "status", "detail", "code", "errors"}


def _check(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert document.keys() >= MEMBERS
    assert document["status"] == status == problems.STATUS[document["code"]]
    assert document["title"] == CODES[document["code"]]


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    assert problems.STATUS.keys() == CODES.keys()
    assert all(400 <= status < 600 for status in problems.STATUS.values())


def test_every_route_answers_the_same_shape(gateway: Gateway) -> None:
    with gateway.client() as client:
        for context in openapi.api_routes(gateway.app):
            path = str(context.path).replace("{number}", "1")
            if openapi.roles_of(context) is not None:
                for method in context.methods or ():
                    _check(client.request(method, path), 401)
            _check(client.request("PATCH", path), 405)
        _check(client.get("/v1/nothing"), 404)
        _check(client.get("/v1/ledger/../../etc/passwd"), 404)


def test_parameters_that_do_not_parse_are_named(gateway: Gateway) -> None:
    for path, field in (
        ("/v1/jobs?limit=0", "limit"),
        ("/v1/jobs?limit=ten", "limit"),
        ("/v1/jobs?status=asleep", "status"),
        ("/v1/ledger?since=yesterday", "since"),
        ("/v1/ledger?after=x", "after"),
        ("/v1/datasets/d/policies?after=x", "after"),
        ("/v1/datasets/d/policies?after=%C2%B2", "after"),  # a digit to Python, and no number
        (f"/v1/datasets/d/policies?after={10**30}", "after"),
        ("/v1/ledger?kind=theft", "kind"),
        ("/v1/ledger/export?format=xml", "format"),
    ):
        problem = gateway.refused("auditor", "GET", path)
        assert problem["code"] == "invalid_request"
        assert [error["field"] for error in problem["errors"]] == [field], path


def test_a_parameter_that_the_address_lacks_is_named(gateway: Gateway) -> None:
    """Ignored, a misspelt filter would list everything."""
    for path, field, others in (
        ("/v1/jobs?dateset=x", "dateset", "after, dataset, limit, status"),
        ("/v1/jobs?limit=5&Limit=5", "Limit", "after, dataset, limit, status"),
        ("/v1/me?verbose=1", "verbose", "there are none"),
        (f"/v1/jobs?{'x' * 300}=1", "x" * 100, "after"),
    ):
        problem = gateway.refused("auditor", "GET", path)
        assert problem["code"] == "invalid_request"
        (error,) = problem["errors"]
        assert error["field"] == field
        assert others in error["message"]


def test_facts_are_members_and_cannot_replace_the_shape() -> None:
    refusal = Refused(
        "budget_exceeded",
        "no room",
        errors=[FieldError("rounds", "too many", 10, 4)],
        left=0.5,
        price=float("inf"),
        status="forged",
        folder=Path("x"),
    )

    document = problems.document(refusal)

    assert document["status"] == 409
    assert document["left"] == 0.5
    assert document["price"] == "infinite"
    assert document["errors"] == [
        {"field": "rounds", "message": "too many", "value": 10, "limit": 4}
    ]


def test_the_unforeseen_says_only_that_it_was(
    settings: GatewaySettings, services: Services
) -> None:
    def broken() -> datetime:
        raise RuntimeError("password hunter2 in /srv/secret")

    with running(settings.model_copy(update={"housekeeping": False}), services) as house:
        house.add("owner", "owner")
        house.app.state.services = replace(house.services, clock=broken)
        with house.client("owner") as client:
            answer = client.get("/v1/me")

    _check(answer, 500)
    assert answer.json()["code"] == "internal"
    assert "hunter2" not in answer.text
    assert "srv" not in answer.text


def test_a_database_that_is_gone_is_503(gateway: Gateway) -> None:
    unreachable = Database("postgresql://nobody@127.0.0.1:9/nothing")
    gateway.app.state.services = replace(gateway.services, database=unreachable)

    with gateway.client("owner") as client:
        answer = client.get("/v1/me")
        ready = client.get("/readyz")

    _check(answer, 503)
    assert answer.json()["code"] == "unavailable"
    assert answer.headers["retry-after"]
    assert ready.status_code == 503
    assert ready.json()["parts"]["database"] == "down"


@pytest.mark.parametrize("header", ["", "Bearer", "Basic eDp5", "Bearer pgt_x", "Bearer é" * 60])
def test_every_wrong_token_gets_the_same_answer(gateway: Gateway, header: str) -> None:
    with gateway.client() as client:
        expected = client.get("/v1/me")
        answer = client.get("/v1/me", headers={"Authorization": header.encode("latin-1")})

    _check(answer, 401)
    assert answer.json() == expected.json()
