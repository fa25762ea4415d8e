"""Data sets: register a file (uploaded, or lying on the server), list what one may see.

Never content: an answer holds the schema, public constants and the digest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.datastructures import UploadFile

from accounting.tables import Population
from gateway import scope, uploads
from gateway.body import form_file, form_text, json_body, media_type_of, read_form, read_raw
from gateway.deps import Anybody, Configured, Outside, Owner, PageAsked
from gateway.deps import settings as configured
from gateway.paging import page
from gateway.places import Places
from gateway.settings import GatewaySettings
from jobs import catalogue, mock
from jobs.principal import Principal
from jobs.services import Services
from jobs.tables_datasets import Dataset
from kit.clock import from_micros, rfc3339
from policies.tables import IS_ACTIVE, PolicyRevision
from privacy_gateway.canonical import loads_strict
from privacy_gateway.manifest import DatasetByPath, Manifest
from privacy_gateway.schemas import Reason, parse
from privacy_gateway.views import DatasetView, Page

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

# Of some forty requests that run at once.
_READING = Places("data files", in_all=8, of_one=2)

_DATASET = Dataset.__table__  # type: ignore[attr-defined]
_REVISION = PolicyRevision.__table__  # type: ignore[attr-defined]

_MOCK: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-npz": {"schema": {"type": "string", "format": "binary"}}}}
}

# What the form and the JSON body look like, for the OpenAPI document.
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/DatasetByPath"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["manifest", "file"],
                    "properties": {
                        "manifest": {"type": "string", "contentMediaType": "application/json"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            },
        },
    }
}


@dataclass(frozen=True, slots=True)
class Offered:
    """A manifest and where its file is: in a form, or at a path of the server."""

    manifest: Manifest
    upload: UploadFile | None
    path: str | None

    @contextmanager
    def file(self, settings: GatewaySettings, services: Services) -> Iterator[Path]:
        """The file on this machine's disk."""
        if self.upload is None:
            yield uploads.on_server(self.path or "", settings)
            return
        with uploads.on_disk(self.upload, settings, services.new_id) as path:
            yield path


async def offered(
    request: Request, caller: Owner, settings: Annotated[GatewaySettings, Depends(configured)]
) -> AsyncIterator[Offered]:
    """Either form of `POST /v1/datasets`; nothing is read before the caller is known.

    An upload lies on disk from its first byte, so few are taken at a time, however slowly they
    come; the place is kept until the file is read.
    """
    with _READING.taken(caller.id):
        yield await _read(request, settings)


async def _read(request: Request, settings: GatewaySettings) -> Offered:
    if media_type_of(request.headers) != "multipart/form-data":
        await read_raw(request)
        named = parse(DatasetByPath, loads_strict(request.state.raw_body))
        return Offered(named.manifest, None, named.path)
    form = await read_form(request, settings.maximum_upload_bytes)
    body = {"manifest": loads_strict(form_text(form, "manifest").encode()), "path": "upload"}
    return Offered(parse(DatasetByPath, body).manifest, form_file(form, "file"), None)


@router.post("", status_code=201, openapi_extra=BODY)
def register(
    services: Outside,
    settings: Configured,
    caller: Owner,
    given: Annotated[Offered, Depends(offered)],
) -> DatasetView:
    """Register a version of a data set from an NPZ, CSV, Parquet, TFRecord or LEAF file.

    As a multipart form with the fields `manifest` (JSON) and `file`, or as JSON with `manifest` and
    the `path` of a file in a directory the operator opened for import.
    """
    with services.database.read() as session:
        wanted = catalogue.expected(session, manifest=given.manifest, owner_id=caller.id)
    # No transaction is open while a file is read, which may take an hour.
    with given.file(settings, services) as source:
        staged = catalogue.stage(
            wanted,
            manifest=given.manifest,
            source=source,
            state_dir=settings.state_dir,
            limits=settings.data_limits(),
        )
    with services.database.unit_of_work() as session:
        row = catalogue.register(
            session,
            manifest=given.manifest,
            source=staged,
            owner_id=caller.id,
            state_dir=settings.state_dir,
            now=services.clock(),
            new_id=services.new_id,
        )
        return _view(session, row, caller)


@router.get("")
def list_datasets(services: Outside, caller: Anybody, asked: PageAsked) -> Page[DatasetView]:
    """The versions one may see: one's own, or those with an active policy."""
    with services.database.read() as session:
        return page(
            session,
            scope.datasets(caller),
            _DATASET.c.id,
            asked,
            lambda row: _view(session, row, caller),
        )


@router.get("/{dataset_id}")
def show(services: Outside, caller: Anybody, dataset_id: str) -> DatasetView:
    """One version: metadata, schema and the ids of its assets."""
    with services.database.read() as session:
        return _view(session, scope.dataset(session, caller, dataset_id), caller)


@router.get("/{dataset_id}/mock", responses=_MOCK, response_class=Response)
def mock_data(
    services: Outside,
    caller: Anybody,
    dataset_id: str,
    clients: Annotated[int, Query(ge=1, le=10_000, description="made-up people")] = 10,
    examples: Annotated[int, Query(ge=1, le=10_000, description="most records of one")] = 20,
) -> Response:
    """Made-up records of the same shape, from the schema alone; free, and about nobody.

    An NPZ with `features`, `label`, `client` and `scale`. The same call gives the same records.
    """
    with services.database.read() as session:
        described = mock.schema(scope.dataset(session, caller, dataset_id))
    data = mock.archive(mock.mock(described, clients=clients, examples=examples))
    headers = {"Content-Disposition": f'attachment; filename="{dataset_id}-mock.npz"'}
    return Response(data, media_type="application/x-npz", headers=headers)


@router.post("/{dataset_id}/freeze")
def freeze(
    services: Outside, caller: Owner, dataset_id: str, body: Annotated[Reason, json_body(Reason)]
) -> DatasetView:
    """Withdraw a version: no new job may name it, running ones end before their next rounds."""
    return _set_frozen(services, caller, dataset_id, True, body)


@router.post("/{dataset_id}/unfreeze")
def unfreeze(
    services: Outside, caller: Owner, dataset_id: str, body: Annotated[Reason, json_body(Reason)]
) -> DatasetView:
    """Offer a withdrawn version again."""
    return _set_frozen(services, caller, dataset_id, False, body)


def _set_frozen(
    services: Services, caller: Principal, dataset_id: str, frozen: bool, why: Reason
) -> DatasetView:
    with services.database.unit_of_work() as session:
        scope.own_dataset(session, caller, dataset_id)
        row = catalogue.set_frozen(
            session,
            dataset_id,
            frozen,
            reason=why.reason,
            actor_id=caller.id,
            now=services.clock(),
        )
        return _view(session, row, caller)


def _view(session: Session, row: Dataset, caller: Principal) -> DatasetView:
    public = catalogue.has_public_test(row)
    population = session.get_one(Population, row.population_id)
    active = sa.select(_REVISION.c.number).where(_REVISION.c.dataset_id == row.id, IS_ACTIVE)
    return DatasetView(
        id=row.id,
        name=row.name,
        version=row.version,
        population=row.population_id,
        owner_id=row.owner_id,
        privacy_unit=population.privacy_unit,
        clients=row.clients,
        digest=row.digest,
        assets=row.assets,
        feature_shape=row.feature_shape,
        label=str(row.manifest.get("label", "")),
        classes=row.classes,
        # How many records are kept from everybody is a number of people's data.
        test_examples=row.test_examples if public or caller.role != "researcher" else 0,
        test_public=public,
        tags=row.tags,
        block=row.manifest.get("block"),
        policy=session.scalar(active),
        frozen=row.frozen,
        created_at=rfc3339(from_micros(row.created_at)),
    )
