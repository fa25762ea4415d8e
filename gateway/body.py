"""Request bodies, read strictly: bytes → one canonical meaning → typed model.

FastAPI's own body parsing accepts what parsers disagree on (duplicate keys, NaN), so no route
declares a body to it; a route depends on `json_body(Model)` instead and the OpenAPI document is
completed from the same object (`gateway.openapi`). Nothing is read before the caller is known.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from privacy_gateway.canonical import MAX_BYTES, loads_strict, texts
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.schemas import parse

MANIFEST_BYTES = 65_536
_ZERO, _ESCAPED_ZERO = "\x00", b"\\u0000"
_HOLDS_ZERO = "holds a zero byte"
_LONGEST_NAME = 100

Model = TypeVar("Model", bound=BaseModel)


async def read_raw(request: Request) -> None:
    """Keep the body's bytes on the request: JSON only, bounded, read once."""
    media_type = media_type_of(request.headers)
    if media_type != "application/json":
        raise invalid("content-type", "must be application/json", value=media_type[:80])
    chunks = [chunk async for chunk in bounded(request, MAX_BYTES)]
    request.state.raw_body = b"".join(chunks)


@dataclass(frozen=True, slots=True)
class StrictJson(Generic[Model]):
    """A dependency that answers the request's JSON body as `model`, or refuses it.

    The bytes are awaited on the event loop; parsing and validation run in a worker thread.
    """

    model: type[Model]

    def __call__(self, request: Request, _read: None = Depends(read_raw)) -> Model:
        value = loads_strict(request.state.raw_body)
        if _ESCAPED_ZERO in request.state.raw_body:
            _refuse_zero_bytes(value)
        return parse(self.model, value)


def json_body(model: type[BaseModel]) -> Any:
    """The body, parsed as `model`; goes into `Annotated[Model, …]` of an endpoint."""
    return Depends(StrictJson(model))


async def no_zero_byte(request: Request) -> None:
    """Refuse a zero byte in path or query: no name holds one, and PostgreSQL takes no text with it.

    Raises:
        Refused: `invalid_request` on `path` or `query`.
    """
    if _ZERO in request.scope["path"]:
        raise invalid("path", _HOLDS_ZERO)
    if b"%00" in request.scope["query_string"]:
        raise invalid("query", _HOLDS_ZERO)


async def known_parameters(request: Request) -> None:
    """Refuse a parameter that the address does not have: `?dateset=x` must not list everything.

    Raises:
        Refused: `invalid_request` on the parameter.
    """
    asked = request.query_params
    known = _parameters(request.scope["route"].dependant) if asked else frozenset()
    for name in asked:
        if name not in known:
            detail = f"is no parameter here; there {_listed(sorted(known))}"
            raise invalid(name[:_LONGEST_NAME], detail)


def _parameters(dependant: Dependant) -> frozenset[str]:
    """Names in the query that an endpoint and whatever it depends on declare."""
    found = {field.alias for field in dependant.query_params}
    return frozenset(found.union(*map(_parameters, dependant.dependencies)))


def _listed(names: list[str]) -> str:
    return f"are {', '.join(names)}" if names else "are none"


def media_type_of(headers: Headers) -> str:
    """The media type without parameters, lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks, refused as `too_large` as soon as they cannot stay within `limit`."""
    declared = request.headers.get("content-length", "")
    received = int(declared) if declared.isdigit() else 0
    if received > limit:
        raise too_large(limit)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large(limit)
        yield chunk


async def read_form(request: Request, limit: int) -> FormData:
    """A multipart form of one file and one text field, spooled to disk as it arrives.

    Raises:
        Refused: `too_large` beyond `limit` bytes in all; `invalid_request` for a broken form.
    """
    parser = MultiPartParser(
        request.headers,
        bounded(request, limit),
        max_files=1,
        max_fields=1,
        max_part_size=MANIFEST_BYTES,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        asked = (
            "one text field `manifest` and one file `file` (curl -F 'manifest=<FILE' -F file=@FILE)"
        )
        raise invalid("body", f"must be a form of {asked}: {error.message}") from error
    except (KeyError, UnicodeDecodeError) as error:
        raise invalid("body", "is not a multipart form") from error


def form_text(form: FormData, name: str) -> str:
    """A text field of the form, or a refusal that names it."""
    value = form.get(name)
    if not isinstance(value, str):
        raise invalid(name, "is needed, as a text field of the form")
    return value


def form_file(form: FormData, name: str) -> UploadFile:
    """A file of the form, or a refusal that names it."""
    value = form.get(name)
    if not isinstance(value, UploadFile):
        raise invalid(name, "is needed, as a file of the form")
    return value


def _refuse_zero_bytes(value: Any) -> None:
    """The same in a JSON body, named by its member."""
    for path, text in texts(value):
        if _ZERO in text:
            raise invalid(path or "body", _HOLDS_ZERO)


def too_large(limit: int) -> Refused:
    """The refusal of a body beyond `limit` bytes."""
    return Refused("too_large", f"the body has more than {limit} bytes", limit=limit)
