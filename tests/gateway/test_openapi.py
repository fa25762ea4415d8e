"""The OpenAPI document is complete, and the gateway keeps what it promises there."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as schema_checks

from gateway import openapi
from gateway.problems import MEDIA_TYPE
from tests.gateway.clinic import opened
from tests.gateway.conftest import Gateway


@pytest.fixture
def document(gateway: Gateway) -> dict[str, Any]:
    with gateway.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_says_how_it_refuses_and_what_it_needs(
    document: dict[str, Any], gateway: Gateway
) -> None:
    open_paths = {"/v1/login", "/healthz", "/readyz", "/metrics"}
    for method, path, operation in _operations(document):
        assert MEDIA_TYPE in operation["responses"]["default"]["content"], path
        assert "422" not in operation["responses"], path
        assert ("security" in operation) == (path not in open_paths), path
        assert operation["description"], path
        assert method in {"get", "post", "put", "delete"}
    with_body = {
        (context.path, method.lower())
        for context in openapi.api_routes(gateway.app)
        if openapi.body_model(context) is not None
        for method in context.methods or ()
    }
    assert with_body
    for path, method in with_body:
        body = document["paths"][path][method]["requestBody"]
        assert body["content"]["application/json"]["schema"]["$ref"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for member in value.values() for found in references(member)]
        if isinstance(value, list):
            return [found for member in value for found in references(member)]
        return []

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert "additionalProperties" in schemas["JobRequest"]
    assert schemas["JobRequest"]["additionalProperties"] is False
    assert not {"epsilon", "delta", "seed"} & schemas["JobRequest"]["properties"].keys()
    json.dumps(document)


CHECKED = [
    checks.not_a_server_error,
    schema_checks.status_code_conformance,
    schema_checks.content_type_conformance,
    schema_checks.response_schema_conformance,
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("who", ["owner", "researcher"])
def test_the_gateway_keeps_its_promises(gateway: Gateway, who: str, mode: GenerationMode) -> None:
    """A short schemathesis run: no 5xx and no answer outside the document."""
    opened(gateway)
    broken: list[str] = []
    for result in schemathesis.openapi.from_url(f"{gateway.url}/openapi.json").get_all_operations():
        operation = result.ok()
        if not operation.path.endswith("/events"):
            _try_out(operation, mode, gateway.tokens[who], broken)
    assert broken == []


def _try_out(operation: Any, mode: GenerationMode, token: str, broken: list[str]) -> None:
    """A few generated requests to one operation; what is wrong with answers goes to `broken`."""

    @settings(
        max_examples=4,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        try:
            case.call_and_validate(
                headers={"Authorization": f"Bearer {token}"}, checks=CHECKED, timeout=30
            )
        except FailureGroup as group:
            broken.extend(f"{operation.label}: {failure}" for failure in group.exceptions)

    with contextlib.suppress(Unsatisfiable):  # nothing about some operations can be invalid
        send()
