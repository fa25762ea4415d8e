"""The only place where a refusal becomes an HTTP status (RFC 9457 problem documents).

Every error of every route leaves through here and has one shape: `type`, `title`, `status`,
`detail`, `code`, `errors`, and the facts of the refusal as further members. A problem must never
show a stack trace, a path of this machine, a secret or a value of data; what was unforeseen says
only that it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from sqlalchemy import exc as database_errors
from starlette.exceptions import HTTPException

from kit import log
from privacy_gateway.canonical import dumps
from privacy_gateway.errors import CODES, FieldError, Refused
from privacy_gateway.faults import message_of, refusal_of

MEDIA_TYPE = "application/problem+json"

STATUS: dict[str, int] = {
    "invalid_request": 422,
    "model_refused": 422,
    "policy_denied": 403,
    "policy_unavailable": 503,
    "policy_error": 403,
    "policy_refused": 422,
    "budget_exceeded": 409,
    "quota_exceeded": 409,
    "frozen": 409,
    "floor": 422,
    "price_disagreement": 503,
    "price_overflow": 422,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "idempotency_mismatch": 422,
    "not_ready": 409,
    "unavailable": 503,
    "too_large": 413,
    "unsupported": 422,
    "internal": 500,
}

_RESERVED = frozenset({"type", "title", "status", "detail", "code", "errors", "instance"})
_OF_STATUS = {401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}
_LOG = log.get("gateway")


def document(refusal: Refused) -> dict[str, Any]:
    """The problem document of a refusal, as plain JSON values."""
    facts = {name: fact for name, fact in refusal.facts.items() if name not in _RESERVED}
    return {
        "type": f"urn:privacy-gateway:problem:{refusal.code}",
        "title": CODES[refusal.code],
        "status": STATUS[refusal.code],
        "detail": refusal.detail,
        "code": refusal.code,
        "errors": [_plain(error.as_dict()) for error in refusal.errors],
        **_plain(facts),
    }


def response(refusal: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """The HTTP answer of a refusal."""
    extra = dict(headers or {})
    if refusal.code == "unauthenticated":
        extra["WWW-Authenticate"] = "Bearer"
    if STATUS[refusal.code] == 503:
        extra["Retry-After"] = "2"
    body = dumps(_plain(document(refusal)), floats=True)
    return Response(body, STATUS[refusal.code], extra, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Give every kind of failure its one way out."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(ValidationError, _body)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(database_errors.OperationalError, _database_down)
    app.add_exception_handler(database_errors.InterfaceError, _database_down)
    app.add_exception_handler(database_errors.TimeoutError, _database_down)
    app.add_exception_handler(database_errors.IntegrityError, _contradiction)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101  (registered for nothing else)
    return response(error)


async def _parameters(_request: Request, error: Exception) -> Response:
    """Path, query and header values that do not parse: FastAPI's list, our shape."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = [
        FieldError(".".join(str(part) for part in fault["loc"][1:]) or "body", message_of(fault))
        for fault in error.errors()
    ]
    names = ", ".join(dict.fromkeys(fault.field for fault in faults))
    detail = f"{names}: {faults[0].message}" if faults else "the request does not parse"
    return response(Refused("invalid_request", detail, errors=faults))


async def _body(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)  # noqa: S101
    return response(refusal_of(error))


async def _framework(_request: Request, error: Exception) -> Response:
    """What the framework itself raises: unknown path, wrong method, broken form."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = _OF_STATUS.get(error.status_code, "invalid_request")
    if error.status_code >= 500:
        code = "internal"
    detail = CODES[code] if code != "invalid_request" else str(error.detail)
    return response(Refused(code, detail), error.headers)


async def _database_down(_request: Request, error: Exception) -> Response:
    _LOG.error("database_unavailable", kind=type(error).__name__)
    detail = "the database does not answer; send the same again, with the same Idempotency-Key"
    return response(Refused("unavailable", detail))


async def _contradiction(_request: Request, error: Exception) -> Response:
    """A constraint said no where a check before it had said yes: somebody was faster."""
    _LOG.warning("constraint", kind=type(error).__name__)
    return response(Refused("conflict", "somebody else changed this at the same moment"))


def unforeseen() -> Response:
    """The answer to an exception nobody expected (`gateway.observe` catches and logs it)."""
    return response(Refused("internal", "something failed that should not; the operator is told"))


def _plain(value: Any) -> Any:
    """JSON values only: an infinite price is said in words, anything else by its text.

    Half a character, which a refused request may name, has no bytes: it is told by its escape.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return "infinite" if value > 0 else str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(member) for member in value]
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    return _plain(str(value))
