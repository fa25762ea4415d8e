"""First weights: upload, list, remove.

The body is the file itself, bounded by what the largest model can weigh before a byte is read.
No answer holds numbers: they come back as what a job made of them, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from gateway.body import bounded, media_type_of
from gateway.deps import Outside, PageAsked, Researcher
from gateway.deps import services as outside
from gateway.paging import cut
from gateway.places import Places
from jobs import starting_weights
from jobs.services import Services
from jobs.tables_weights import STARTING_WEIGHTS
from kit.clock import from_micros, rfc3339
from privacy_gateway.errors import invalid
from privacy_gateway.initial import WeightsView
from privacy_gateway.views import Page

router = APIRouter(prefix="/v1/weights", tags=["weights"])

_UPLOADS = Places("uploads of weights", in_all=8, of_one=2)
MEDIA_TYPES = ("application/octet-stream", "application/x-npz")
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in MEDIA_TYPES
        },
    }
}


async def file_of(
    request: Request, caller: Researcher, services: Annotated[Services, Depends(outside)]
) -> AsyncIterator[bytes]:
    """The body's bytes; nothing is read before the caller is known.

    They are kept in memory, so few are taken at a time, however slowly they come.
    """
    media_type = media_type_of(request.headers)
    if media_type not in MEDIA_TYPES:
        raise invalid("content-type", f"is one of {', '.join(MEDIA_TYPES)}", value=media_type[:80])
    limit = starting_weights.most_bytes(services.settings.maximum_model_parameters)
    with _UPLOADS.taken(caller.id):
        yield b"".join([chunk async for chunk in bounded(request, limit)])


@router.post("", status_code=201, openapi_extra=BODY)
def upload(
    services: Outside,
    caller: Researcher,
    data: Annotated[bytes, Depends(file_of)],
    response: Response,
) -> WeightsView:
    """Store first weights for a job: an NPZ without pickles, or safetensors.

    Tensors are floats, finite, and named by their place in the model's weights (`weight_0000`,
    `arr_0`). The same numbers are the same upload. A job names them as `initial.weights`.
    """
    settings = services.settings
    read = starting_weights.read(data, parameters=settings.maximum_model_parameters)
    with services.database.unit_of_work() as session:
        row = starting_weights.keep(
            session,
            caller,
            read,
            most_stored=settings.maximum_stored_weights_bytes,
            now=services.clock(),
        )
        view = _view(row)
    response.headers["Location"] = f"/v1/weights/{view.id}"
    return view


@router.get("")
def list_weights(services: Outside, caller: Researcher, asked: PageAsked) -> Page[WeightsView]:
    """One's own uploads."""
    query = starting_weights.mine(caller)
    if asked.after is not None:
        query = query.where(STARTING_WEIGHTS.c.id > asked.after)
    with services.database.read() as session:
        rows = session.execute(
            query.order_by(STARTING_WEIGHTS.c.id).limit(asked.limit + 1)
        ).all()  # fmt: skip
    return cut(rows, asked, lambda row: str(row.id), _view)


@router.get("/{weights_id}")
def show(services: Outside, caller: Researcher, weights_id: str) -> WeightsView:
    """One upload: digest and shapes."""
    with services.database.read() as session:
        return _view(starting_weights.find(session, caller, weights_id))


@router.delete("/{weights_id}", status_code=204)
def remove(services: Outside, caller: Researcher, weights_id: str) -> None:
    """Forget an upload that no job waits for; receipts keep its digest."""
    with services.database.unit_of_work() as session:
        starting_weights.remove(session, caller, weights_id)


def _view(row: Any) -> WeightsView:
    return WeightsView(
        id=row.id,
        sha256=row.id.removeprefix(starting_weights.PREFIX),
        parameters=row.parameters,
        shapes=json.loads(row.shapes),
        size_bytes=row.size_bytes,
        created_at=rfc3339(from_micros(row.created_at)),
    )
