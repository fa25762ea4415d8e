"""Jobs: submit, follow, cancel, approve, take the result and the receipt.

Only the event stream is asynchronous: one waiting listener must not hold a thread.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import anyio
import anyio.to_thread
import sqlalchemy as sa
from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from gateway.auth import authenticate
from gateway.body import json_body
from gateway.deps import Anybody, Approver, Canceller, Configured, Outside, PageAsked, Researcher
from gateway.paging import cut
from gateway.places import Places
from jobs import admission, approvals, events, lifecycle, outputs, settlement, states, views
from jobs.events import Event
from jobs.services import Services
from jobs.tables import JobRelease
from kit.tensors import Form
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.schemas import JobRequest, JobView
from privacy_gateway.views import Approval, Page, RoundMetrics

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MOST_EVENTS = 2**31
# Each looks into the database twice a second.
_STREAMS = Places("event streams", in_all=512, of_one=32)

_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/x-npz": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": {
            "ETag": {"schema": {"type": "string"}, "description": "SHA-256 of the file, hex"},
            "Repr-Digest": {
                "schema": {"type": "string"},
                "description": "SHA-256 of the file as RFC 9530 writes it",
            },
        },
    }
}


@router.post("", status_code=202)
def submit(
    services: Outside,
    caller: Researcher,
    body: Annotated[JobRequest, json_body(JobRequest)],
    request: Request,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobView:
    """Admit a job: priced, decided and reserved in one transaction, or refused with every rule.

    The same `Idempotency-Key` with the same body answers the same job; with another body it is
    refused.
    """
    outcome = admission.submit(services, caller, body, idempotency_key)
    request.app.state.nudge()
    response.headers["Location"] = f"/v1/jobs/{outcome.job.id}"
    if outcome.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return outcome.job


@router.get("")
def list_jobs(
    services: Outside,
    caller: Anybody,
    asked: PageAsked,
    status: Annotated[str | None, Query(max_length=40)] = None,
    dataset: Annotated[str | None, Query(max_length=100)] = None,
) -> Page[JobView]:
    """The jobs one may see, newest first."""
    with services.database.read() as session:
        rows = views.list_jobs(
            session,
            caller,
            status=status,
            dataset=dataset,
            after=asked.after,
            limit=asked.limit + 1,
        )
    return cut(rows, asked, lambda job: job.id, lambda job: job)


@router.get("/{job_id}")
def show(services: Outside, caller: Anybody, job_id: str) -> JobView:
    """One job."""
    with services.database.read() as session:
        return views.get_job(session, caller, job_id)


@router.get("/{job_id}/events", responses=_STREAM, response_class=EventSourceResponse)
async def stream(
    services: Outside,
    settings: Configured,
    caller: Anybody,
    request: Request,
    job_id: str,
    after: Annotated[int, Query(ge=0, le=MOST_EVENTS)] = 0,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> EventSourceResponse:
    """What happens to a job, as server-sent events, until it is over.

    `id` is the event's number: a client that reconnects with `Last-Event-ID` (or `?after=`) misses
    nothing.
    """
    if last_event_id is not None:
        # `isdigit` alone would let through digits of other scripts, which `int` does not all read.
        if not (last_event_id.isascii() and last_event_id.isdigit()):
            raise invalid("last-event-id", "is the number of an event", value=last_event_id)
        after = min(int(last_event_id), MOST_EVENTS)
    follower = Follower(services, request.headers.get("authorization"), job_id)
    await anyio.to_thread.run_sync(follower.news, after)
    _STREAMS.look(caller.id)
    told = _tell(follower, caller.id, after, settings.event_poll_seconds)
    return EventSourceResponse(told, ping=15)


@router.post("/{job_id}/cancel")
def cancel(services: Outside, caller: Canceller, job_id: str) -> JobView:
    """End a job early; rounds not charged yet go back to the budget."""
    return lifecycle.cancel(services, caller, job_id)


@router.post("/{job_id}/approvals")
def approve(
    services: Outside,
    caller: Approver,
    job_id: str,
    body: Annotated[Approval, json_body(Approval)],
    request: Request,
) -> JobView:
    """Decide about a job that the policy lets run only with people's consent."""
    decided = approvals.decide(services, caller, job_id, body)
    request.app.state.nudge()
    return decided


@router.get("/{job_id}/result", responses=_FILE, response_class=Response)
def result(
    services: Outside,
    caller: Anybody,
    job_id: str,
    form: Annotated[
        Form, Query(alias="format", description="npz without pickles, or safetensors")
    ] = "npz",
) -> Response:
    """The released model; downloads are free for ever."""
    with services.database.read() as session:
        file = settlement.result(session, caller, job_id, form=form)
    headers = {
        "Content-Disposition": f'attachment; filename="{file.filename}"',
        # RFC 9530
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(file.digest)).decode()}:",
        "ETag": f'"{file.digest}"',
    }
    return Response(file.data, media_type=file.media_type, headers=headers)


@router.get("/{job_id}/receipt")
def receipt(services: Outside, caller: Anybody, job_id: str) -> dict[str, Any]:
    """What was guaranteed to the people in the data."""
    with services.database.read() as session:
        return settlement.receipt(session, caller, job_id)


@router.get("/{job_id}/metrics")
def metrics(services: Outside, caller: Anybody, job_id: str) -> list[RoundMetrics]:
    """Metrics on public test data after each published round that was measured.

    Empty until the model may be released, and where the owner releases nothing about it.
    """
    with services.database.read() as session:
        job = views.find(session, caller, job_id)
        if not outputs.metrics_shown(session, job):
            return []
        query = (
            sa.select(_RELEASE.c.round, _RELEASE.c.metrics)
            .where(_RELEASE.c.job_id == job.id, _RELEASE.c.metrics.is_not(None))
            .order_by(_RELEASE.c.round)
        )
        rows = session.execute(query).all()
    return [RoundMetrics(round=row.round, metrics=json.loads(row.metrics)) for row in rows]


@dataclass(frozen=True, slots=True)
class Follower:
    """Who follows a job: asked for the token at every look, which may have been revoked since."""

    services: Services
    authorization: str | None
    job_id: str

    def news(self, after: int) -> tuple[bool, list[Event]]:
        """Whether the job is over, and what is new.

        Raises:
            Refused: `unauthenticated`; `not_found` for a job that the caller may not see.
        """
        with self.services.database.read() as session:
            caller = authenticate(session, self.authorization, now=self.services.clock())
            job = views.find(session, caller, self.job_id)
            news = events.since(session, job.id, after=after)
            if caller.role == "researcher" and not outputs.metrics_shown(session, job):
                news = [_without_figures(event) for event in news]
            return states.is_final(job.status), news


def _without_figures(event: Event) -> Event:
    """An adaptive clip norm is a figure about the model, which the owner may withhold or delay."""
    body = {name: value for name, value in event.body.items() if name != "clip_norm"}
    return replace(event, body=body)


async def _tell(
    follower: Follower, caller_id: str, after: int, pause: float
) -> AsyncIterator[ServerSentEvent]:
    """Events as they come; the state is read before them, so the last one is never missed."""
    with _STREAMS.taken(caller_id):
        async for event in _events(follower, after, pause):
            yield event


async def _events(follower: Follower, after: int, pause: float) -> AsyncIterator[ServerSentEvent]:
    while True:
        try:
            over, news = await anyio.to_thread.run_sync(follower.news, after)
        except Refused:  # what was allowed at the beginning no longer is
            return
        for event in news:
            after = event.seq
            data = json.dumps(event.as_dict(), separators=(",", ":"))
            yield ServerSentEvent(data, event=event.kind, id=str(event.seq))
        if over and not news:
            return
        if not news:
            await anyio.sleep(pause)
