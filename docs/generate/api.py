"""The page of the HTTP interface: routes with their roles, then every body and answer.

From the application's own route table and OpenAPI document (`GET /openapi.json` serves it).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.generate.markdown import code, document, table
from gateway import openapi
from gateway.app import create_app
from gateway.settings import GatewaySettings

INTRODUCTION = """
# HTTP interface

JSON over HTTP, UTF-8. A caller shows a token from `POST /v1/login` or `POST /v1/tokens` as
`Authorization: Bearer …`. Requests are read strictly: unknown and double keys, NaN and Infinity,
`true` or `"10"` for a number and `10.0` for an integer are refused with the name of the field.
Refusals are problem documents, see [error codes](errors.md). Listings answer `items` and `next`;
`?after=` takes `next`, `?limit=` is at most 1000. What is not yours answers like what is not there.

`GET /openapi.json` serves the complete document for programs.
"""

# Layers have a page's worth of fields; a table each, below everything else.
_LAYERS_TITLE = "## Layers of a model"


def page() -> str:
    """The page."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(GatewaySettings(state_dir=Path(folder)))
        roles = {
            (method.lower(), str(context.path)): openapi.roles_of(context)
            for context in openapi.api_routes(app)
            for method in context.methods or ()
        }
        described = openapi.build(app)
        app.state.services.close()
    schemas = described["components"]["schemas"]
    layers = {name for name in schemas if _is_layer(schemas[name])}
    plain = sorted(set(schemas) - layers)
    return document(
        INTRODUCTION,
        *_routes(described, roles),
        "## Bodies and answers",
        *(_schema(name, schemas[name]) for name in plain if not name.startswith("Page_")),
        _LAYERS_TITLE,
        *(_schema(name, schemas[name]) for name in sorted(layers)),
    )


def _routes(
    described: Mapping[str, Any], roles: Mapping[tuple[str, str], tuple[str, ...] | None]
) -> Iterator[str]:
    """One table of routes for each tag."""
    by_tag: dict[str, list[tuple[str, ...]]] = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            row = (
                code(f"{method.upper()} {path}"),
                ", ".join(roles[method, path] or ("anybody",)),
                _parameters(operation),
                _body(operation),
                _answer(operation),
                operation.get("description", "").split("\n\n")[0],
            )
            by_tag.setdefault(operation["tags"][0], []).append(row)
    columns = ["route", "who", "parameters", "body", "answer", "does"]
    for tag, rows in by_tag.items():
        yield f"## {tag.capitalize()}"
        yield table(columns, rows)


def _parameters(operation: Mapping[str, Any]) -> str:
    """Query and header parameters; path parameters stand in the route."""
    named = [p["name"] for p in operation.get("parameters", ()) if p["in"] != "path"]
    return ", ".join(code(name) for name in named)


def _body(operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    return " or ".join(_sent(kind, form["schema"]) for kind, form in content.items())


def _sent(kind: str, schema: Mapping[str, Any]) -> str:
    """A schema, a form of fields, or a file of a media type."""
    if "$ref" in schema:
        return _words(schema)
    return "a form" if kind.startswith("multipart/") else code(kind)


def _answer(operation: Mapping[str, Any]) -> str:
    """Status and form of success."""
    for status, answer in operation["responses"].items():
        if not status.startswith("2"):
            continue
        content = answer.get("content", {})
        if "application/json" in content:
            return f"{status} {_words(content['application/json'].get('schema', {}))}"
        return " ".join([status, *(code(kind) for kind in content)])
    return ""


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    """One schema: its text and a table of members."""
    needed = set(schema.get("required", ()))
    rows = [
        (code(member), _words(form), _default(member, form, needed))
        for member, form in schema.get("properties", {}).items()
    ]
    text = schema.get("description", "").replace("\n", " ").replace("  ", "\n\n")
    return document(f"### {name}", text, table(["member", "form", "default"], rows))


def _default(member: str, form: Mapping[str, Any], needed: set[str]) -> str:
    if member in needed:
        return "needed"
    value = form.get("default")
    return "" if value is None else code(value)


def _words(form: Mapping[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in form:
        name = form["$ref"].rpartition("/")[2]
        page_of = name.removeprefix("Page_").rstrip("_")
        listed = "page of " if name.startswith("Page_") else ""
        return f"{listed}[{page_of}](#{page_of.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in form:
            kinds = [_words(each) for each in form[several]]
            return " or ".join("nothing" if kind == "null" else kind for kind in kinds)
    if "const" in form:
        return code(form["const"])
    if "enum" in form:
        return ", ".join(code(value) for value in form["enum"])
    kind = str(form.get("type", "any"))
    if kind == "array":
        return f"list of {_words(form.get('items', {}))}"
    return " ".join([kind, *_bounds(form)]).strip()


def _bounds(form: Mapping[str, Any]) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for name, sign in signs.items():
        if name in form:
            yield f"{sign} {form[name]:g}" if abs(form[name]) < 1e5 else f"{sign} {form[name]:.10g}"
    if "maxLength" in form:
        yield f"of at most {form['maxLength']} characters"


def _is_layer(schema: Mapping[str, Any]) -> bool:
    members = schema.get("properties", {})
    return "inputs" in members and "const" in members.get("type", {})
