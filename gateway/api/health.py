"""Is it alive, is it ready, what does it count: for load balancers and Prometheus.

Nothing here needs a token, so nothing here may name a tenant, a version of a secret, or a path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from gateway.deps import Configured, Outside
from gateway.schema import require_current
from gateway.settings import GatewaySettings
from jobs import presence
from jobs.errors import BrokerDown
from jobs.notary import Notary
from jobs.queue import Queue
from jobs.services import Services
from privacy_gateway.errors import Refused
from privacy_gateway.views import HealthView

router = APIRouter(tags=["health"])

# Without these nothing can be admitted, nor while the witness contradicts the database. Without
# broker or worker jobs are still taken and wait.
REQUIRED = ("database", "migrations", "policy")

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/healthz")
def alive() -> HealthView:
    """The process answers."""
    return HealthView(status="ok")


@router.get("/readyz", responses={503: {"model": HealthView}})
def ready(
    services: Outside, settings: Configured, request: Request, response: Response
) -> HealthView:
    """Every part, each `ok` or what is the matter; 503 when nothing could be admitted."""
    notary: Notary = request.app.state.notary
    checks: dict[str, Callable[[], str]] = {
        "database": lambda: _database(services),
        "migrations": lambda: _migrations(services),
        "policy": lambda: "ok" if services.engine.health().ok else "down",
        "broker": lambda: _broker(settings),
        "worker": lambda: _worker(services),
        "witness": lambda: str(notary.state),
    }
    parts = {part: check() for part, check in checks.items()}
    admits = all(parts[part] == "ok" for part in REQUIRED) and parts["witness"] != "contradicts"
    if admits:
        down = any(state in ("down", "insecure") for state in parts.values())
        return HealthView(status="degraded" if down else "ok", parts=parts)
    response.status_code = 503
    return HealthView(status="unready", parts=parts)


@router.get("/metrics", responses=_TEXT, response_class=Response)
def metrics(request: Request) -> Response:
    """Prometheus exposition."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _database(services: Services) -> str:
    try:
        services.database.ping()
    except SQLAlchemyError:
        return "down"
    return "ok"


def _migrations(services: Services) -> str:
    try:
        require_current(services.database)
    except Refused:
        return "behind"
    except SQLAlchemyError:
        return "unknown"
    return "ok"


def _worker(services: Services) -> str:
    """Whether the database has heard of any worker lately, and of one that is not closed."""
    try:
        with services.database.read() as session:
            if presence.insecure(session):
                return "insecure"
            return "ok" if presence.alive(session) else "none"
    except SQLAlchemyError:
        return "unknown"


def _broker(settings: GatewaySettings) -> str:
    if not settings.redis_url:
        return "none"
    queue = Queue(settings.redis_url)
    try:
        queue.ping()
    except BrokerDown:
        return "down"
    finally:
        queue.close()
    return "ok"
