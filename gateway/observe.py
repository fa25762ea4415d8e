"""What an operator can see of the front door: counters, durations, one log line a request.

Metrics carry method, route template and status only: an id, a name or a path as it was asked would
tell one tenant about another. Nothing that depends on raw data may be counted here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import problems
from jobs.tables import STATES, Job, Outbox
from kit import log
from kit.db import Database
from policies.errors import Fault
from policies.tables import DecisionRow

_LOG = log.get("gateway")
_FAULT = DecisionRow.__table__.c.fault  # type: ignore[attr-defined]
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
# Asked every few seconds by machines; a line each would bury the rest.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Metrics:
    """The registry of one application; two applications of one process share nothing."""

    def __init__(self, database: Database) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "privacy_gateway_http_requests",
            "HTTP requests answered",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "privacy_gateway_http_seconds",
            "Time to the first byte of an answer",
            ["route"],
            registry=self._registry,
        )
        self._registry.register(_Queue(database))

    def text(self) -> bytes:
        """Prometheus exposition format."""
        return generate_latest(self._registry)


@dataclass(frozen=True, slots=True)
class _Queue(Collector):
    """Numbers of the queue and of policy faults, read from the database when asked."""

    database: Database

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        status, sent = Job.__table__.c.status, Outbox.__table__.c.sent_at  # type: ignore[attr-defined]
        with self.database.read() as session:
            found = session.execute(
                sa.select(status, sa.func.count().label("number")).group_by(status)
            ).all()
            waiting = session.scalar(
                sa.select(sa.func.count()).select_from(Outbox).where(sent.is_(None))
            )
            found_faults = session.execute(
                sa.select(_FAULT, sa.func.count().label("number"))
                .where(_FAULT.is_not(None))
                .group_by(_FAULT)
            ).all()
        broken = {row.fault: row.number for row in found_faults}
        counted = {row.status: row.number for row in found}
        jobs = GaugeMetricFamily("privacy_gateway_jobs", "Jobs by state", labels=["state"])
        for state in STATES:
            jobs.add_metric([state], counted.get(state, 0))
        yield jobs
        faults = GaugeMetricFamily(
            "privacy_gateway_policy_faults",
            "Recorded denials for want of a readable decision, by fault",
            labels=["fault"],
        )
        for fault in Fault:
            faults.add_metric([fault.value], broken.get(fault.value, 0))
        yield faults
        yield GaugeMetricFamily(
            "privacy_gateway_outbox_waiting", "Hints not yet given to the broker", waiting or 0
        )


class Observed:
    """ASGI middleware: counts, times and logs requests, and sets the headers all answers have.

    It is also the last to see an exception nobody expected, so that such an answer is counted too.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        begun = False

        async def observed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                present = {name for name, _ in message["headers"]}
                extra = [header for header in _HEADERS if header[0] not in present]
                message["headers"] = [*message["headers"], *extra]
                self._count(scope, message["status"], time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            _LOG.error("unforeseen", route=_template(scope), **log.place_of(error))
            if begun:
                raise
            await problems.unforeseen()(scope, receive, observed)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = _template(scope)
        self._metrics.requests.labels(_method(scope), route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        say = _LOG.debug if route in _QUIET else _LOG.info
        say(
            "request",
            method=_method(scope),
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
        )


def _template(scope: Scope) -> str:
    """The route as declared, or one word for everything unknown."""
    context = scope.get("route_context") or scope.get("route")
    return str(getattr(context, "path", None) or "unmatched")


def _method(scope: Scope) -> str:
    """A method made up by a caller must not make a new time series."""
    known = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
    return scope["method"] if scope["method"] in known else "other"
