"""The ledger: pages for people, exports for verifiers; an owner sees her own populations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from accounting import ledger
from accounting.posting import Entry
from accounting.tables import KINDS
from gateway import scope
from gateway.deps import Moment, Outside, OwnerOrAuditor, PageAsked
from gateway.paging import cut
from jobs.services import Services
from kit.clock import rfc3339
from privacy_gateway import tabular
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.tabular import Form
from privacy_gateway.views import EntryView, Page

router = APIRouter(prefix="/v1/ledger", tags=["ledger"])

_MEDIA_TYPES = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}

Named = Annotated[str | None, Query(max_length=100)]
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/jsonl": {"schema": {"type": "string"}},
            "text/csv": {"schema": {"type": "string"}},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


@router.get("")
def list_entries(
    services: Outside,
    caller: OwnerOrAuditor,
    asked: PageAsked,
    population: Named = None,
    researcher: Named = None,
    job: Named = None,
    kind: Named = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> Page[EntryView]:
    """Entries in the order they were written."""
    if kind is not None and kind not in KINDS:
        raise invalid("kind", f"is one of {', '.join(KINDS)}", value=kind)
    with services.database.read() as session:
        rows = ledger.entries(
            session,
            population=population,
            researcher=researcher,
            job=job,
            kind=kind,
            since=since,
            until=until,
            after=_position(asked.after),
            limit=asked.limit,
            populations=scope.population_ids(session, caller),
        )
    # A full page may be the last one; the following is then empty, which costs one request.
    following = str(rows[-1].id) if len(rows) == asked.limit else None
    return cut(rows, asked, lambda row: str(row.id), _view).model_copy(update={"next": following})


@router.get("/export", responses=_FILE, response_class=StreamingResponse)
def export(
    services: Outside,
    caller: OwnerOrAuditor,
    form: Annotated[
        Form, Query(alias="format", description="any of them can be verified")
    ] = "jsonl",
) -> StreamingResponse:
    """Everything one may see, as a file: JSON lines, or the same lines as a table's rows."""
    with services.database.read() as session:
        populations = scope.population_ids(session, caller)
    headers = {"Content-Disposition": f'attachment; filename="ledger.{form}"'}
    return StreamingResponse(
        _export(services, populations, form),
        media_type=_MEDIA_TYPES[form],
        headers=headers,
    )


@router.get("/{entry_id}")
def show(services: Outside, caller: OwnerOrAuditor, entry_id: str) -> EntryView:
    """One entry, by the `id` of the listing."""
    with services.database.read() as session:
        found = ledger.entry(session, _position(entry_id, "entry_id") or 0)
        if not _visible(scope.population_ids(session, caller), found):
            raise Refused("not_found", f"there is no ledger entry {entry_id}")
    return _view(found)


def _position(text: str | None, field: str = "after") -> int | None:
    """An entry's id from a parameter."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise invalid(field, "is the id of an entry", value=text[:80])
    return int(text)


def _visible(populations: list[str] | None, entry: Entry) -> bool:
    return populations is None or entry.population_id in populations


def _export(services: Services, populations: list[str] | None, form: Form) -> Iterator[bytes]:
    """Blocks of a few thousand entries at most, read while they are sent."""
    with services.database.read() as session:
        lines = ledger.export_lines(session, populations=populations)
        for block in tabular.WRITERS[form](lines):
            # The reader may be slow, and others need the connection. What is left to read is
            # bounded by heads and checkpoint, which were read first, and only ever grows.
            session.commit()
            yield block


def _view(entry: Entry) -> EntryView:
    return EntryView(
        id=entry.id,
        population=entry.population_id,
        seq=entry.seq,
        kind=entry.kind,
        at=rfc3339(entry.at),
        job=entry.job_id,
        researcher=entry.researcher_id,
        actor=entry.actor_id,
        rounds=entry.rounds,
        leaf=entry.leaf,
        prev_hash=entry.prev_hash,
        hash=entry.hash,
    )
