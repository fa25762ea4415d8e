"""The OpenAPI document, completed by what FastAPI cannot see.

Bodies are parsed by `gateway.body`, so their schemas are taken from the same dependency objects
here; every operation answers failures with one problem document. This module must never describe
anything by hand that the route table already says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.body import StrictJson
from gateway.deps import Allow
from gateway.problems import MEDIA_TYPE
from privacy_gateway.manifest import DatasetByPath
from privacy_gateway.views import Problem

_REFERENCE = "#/components/schemas/{model}"
_BEARER = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "opaque"}}


def build(app: FastAPI) -> dict[str, Any]:
    """The whole document of `app`."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    # Named by hand: one is every failure, the other one of two bodies of the same route.
    models: dict[type[BaseModel], None] = {Problem: None, DatasetByPath: None}
    for context in api_routes(app):
        body = body_model(context)
        if body is not None:
            models[body] = None
        for method in context.methods or ():
            operation = document["paths"].get(context.path, {}).get(method.lower())
            if operation is not None:
                _complete(operation, body, protected=roles_of(context) is not None)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    schemas.update(definitions.get("$defs", {}))
    document["components"]["securitySchemes"] = _BEARER
    return document


def install(app: FastAPI) -> None:
    """Serve the completed document at `/openapi.json`."""

    def cached() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = cached  # type: ignore[method-assign]


def api_routes(app: FastAPI) -> Iterator[RouteContext]:
    """Every route of the API proper, routers unfolded."""
    for context in iter_route_contexts(app.routes):
        if getattr(context, "dependant", None) is not None:
            yield context


def roles_of(context: RouteContext) -> tuple[str, ...] | None:
    """The roles a route admits; None for a route without a caller."""
    for call in _calls(context.dependant):
        if isinstance(call, Allow):
            return call.roles
    return None


def body_model(context: RouteContext) -> type[BaseModel] | None:
    """The model of a route's JSON body."""
    for call in _calls(context.dependant):
        if isinstance(call, StrictJson):
            model: type[BaseModel] = call.model
            return model
    return None


def _calls(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def _complete(operation: dict[str, Any], body: type[BaseModel] | None, *, protected: bool) -> None:
    """Add body, security and the one failure shape to an operation."""
    if body is not None:
        schema = {"$ref": _REFERENCE.format(model=body.__name__)}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if protected:
        operation["security"] = [{"bearer": []}]
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "Refused: nothing was changed",
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model="Problem")}}},
    }
