"""The composition root: builds the outside world once and hangs every route on it.

Only this module knows which database, engine and threads there are; routes are given `Services`.
The gateway must never import TensorFlow, and must not serve on a database whose schema is not the
one this code was written for, or that is older than its witness.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.telemetry import TelemetryConfig

from gateway import openapi, problems
from gateway.api import (
    accounts,
    bundles,
    datasets,
    decisions,
    health,
    jobs,
    ledger,
    log,
    policies,
    policy_trials,
    populations,
    projects,
    proposals,
    quotes,
    statements,
    sweeps,
    weights,
)
from gateway.body import known_parameters, no_zero_byte
from gateway.observe import Metrics, Observed
from gateway.schema import require_current
from gateway.settings import GatewaySettings
from jobs import admission
from jobs.notary import Notary, require_not_rolled_back
from jobs.queue import Queue
from jobs.reaper import Housekeeping
from jobs.services import Services, open_services
from policies import archive
from policies.embedded import EmbeddedEngine
from policies.engine import PolicyEngine
from policies.strict import reader

VERSION = "0.1.0"
DESCRIPTION = "Jobs on people's data, priced in differential privacy, decided by the data's owner."

# Metrics are at /metrics; nothing else may leave because a library found an environment variable.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}

ROUTERS: tuple[APIRouter, ...] = (
    accounts.router,
    populations.router,
    projects.router,
    proposals.router,
    datasets.router,
    policies.router,
    policy_trials.router,
    bundles.router,
    quotes.router,
    jobs.router,
    sweeps.router,
    weights.router,
    log.router,
    ledger.router,
    statements.router,
    decisions.router,
    health.router,
)


def create_app(settings: GatewaySettings, services: Services | None = None) -> FastAPI:
    """The ASGI application.

    Args:
        settings: the front door's settings.
        services: the outside world; built from the settings (and closed at the end) when None.
    """
    world = services or admission.with_writer(open_services(settings))
    examiners = _examiners(world.engine, settings)
    notary = Notary(world)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        require_current(world.database)
        with world.database.unit_of_work() as session:
            archive.keep(session, now=world.clock())
        if settings.housekeeping:
            notary.open()
        else:
            require_not_rolled_back(world.database, settings)
        queue = Queue(settings.redis_url) if settings.redis_url else None
        housekeeping = Housekeeping(
            world,
            queue.send if queue else None,
            interval_seconds=settings.housekeeping_seconds,
            also=notary.step,
        )
        if settings.housekeeping:
            housekeeping.start()
        app.state.nudge = housekeeping.nudge
        try:
            yield
        finally:
            housekeeping.stop()
            if queue is not None:
                queue.close()
            for engine in examiners[1:]:
                engine.close()
            if services is None:
                world.close()

    app = FastAPI(
        title="Privacy budget gateway",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(no_zero_byte), Depends(known_parameters)],
        docs_url=None,
        redoc_url=None,
        telemetry=NO_TELEMETRY,
    )
    metrics = Metrics(world.database)
    app.state.services, app.state.settings, app.state.metrics = world, settings, metrics
    app.state.examiners, app.state.notary = examiners, notary
    app.state.press = bundles.press_of(settings)
    app.add_middleware(Observed, metrics=metrics)
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    openapi.install(app)
    return app


def _examiners(engine: PolicyEngine, settings: GatewaySettings) -> tuple[PolicyEngine, ...]:
    """The deciding engine, and the embedded one, which alone reads the language profile."""
    if engine.name == "embedded":
        return (engine,)
    return engine, EmbeddedEngine(1, strict=reader(settings.opa_binary))
