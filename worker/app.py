"""One worker process: Celery's consumer, the coordinator in it, one sandbox child at a time.

`python -m worker` reads the settings from the environment and works until SIGTERM: then it takes
no new job, ends the block under way (or abandons it after a few seconds) and gives the job back.
Beside the consumer a thread keeps house (`jobs.reaper.Housekeeping`): the same as in the gateway,
so that jobs are found again whichever of the two is alive. The process never imports TensorFlow.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

from celery import Celery
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from jobs import presence
from jobs.notary import require_not_rolled_back
from jobs.queue import QUEUE, Queue, celery_app
from jobs.reaper import Housekeeping
from jobs.services import Services, open_services
from jobs.settings import Settings, load
from kit import allocator, confinement, log
from policies import archive
from privacy_gateway.cli.output import explained
from privacy_gateway.errors import Refused
from worker import tasks
from worker.coordinator import Tools
from worker.launcher import Limits, Sandbox
from worker.start import Execute, Start
from worker.task import TrainingTask
from worker.trainers import KEPT_SECONDS, Data
from worker.training import confine
from worker.zygote import Zygote

PRESENCE_SECONDS = 5.0
REFUSED_TO_START = 3
# A round's sums, noise and model come and go in every round.
KEPT_BYTES = 64 << 20

_log = log.get("worker")


def main(settings: Settings | None = None) -> int:
    """Work until told to stop; returns the exit code.

    Raises:
        SystemExit: a setting is wrong; standard error says which.
    """
    with explained():
        settings = settings or load(Settings)
    log.configure(settings.log_level)
    allocator.keep(KEPT_BYTES)
    if not settings.redis_url:
        _log.error("no_broker", hint="set REDIS_URL, or use `privacy-gateway up`")
        return 2
    services = open_services(settings)
    if (refused := _unclosed(settings) or _refused(services)) is not None:
        _log.error("refused_to_start", reason=refused)
        services.close()
        return REFUSED_TO_START
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    queue = Queue(settings.redis_url)
    housekeeping = Housekeeping(services, queue.send, also=_Presence(services, name))
    app = celery_app(settings.redis_url)
    begin = start_of(settings)
    tasks.register(app, services, worker=name, tools=tools_of(settings, begin))
    housekeeping.start()
    _log.info("worker_started", worker=name)
    try:
        return consume(app, name)
    finally:
        if isinstance(begin, Zygote):
            begin.close()
        housekeeping.stop()
        _leave(services, name)
        queue.close()
        services.close()
        _log.info("worker_stopped", worker=name)


def _unclosed(settings: Settings) -> str | None:
    """Why a sandbox could not be closed here; None also where the operator takes that."""
    missing = " and ".join(confinement.lacking())
    if missing and settings.insecure_sandbox:
        _log.warning("insecure_sandbox", missing=missing)
    elif missing:
        return f"this kernel has no {missing}: a sandbox could not be closed"
    state = settings.state_dir.resolve()
    for path in confine.readable():
        if state.is_relative_to(path.resolve()):
            return f"the state directory lies in {path}, which sandboxes can read; move it"
    return None


def start_of(settings: Settings) -> Start:
    """How sandboxes begin; a warm parent is started now, and warms up while the worker waits.

    Call from a thread that lives as long as the worker, and close what is a `Zygote`.
    """
    bubblewrap = settings.sandbox_bubblewrap
    if settings.sandbox_start == "exec" or confinement.lacking():
        return Execute(bubblewrap=bubblewrap, insecure=settings.insecure_sandbox)
    zygote = Zygote(log_path=_log_path(settings), bubblewrap=bubblewrap)
    zygote.start()
    return zygote


def _log_path(settings: Settings) -> Path:
    """Where sandboxes' error text goes."""
    logs = settings.state_dir / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    return logs / "sandbox.log"


def _refused(services: Services) -> str | None:
    """Why nothing may be charged to this database: it is older than its witness, or not there."""
    try:
        require_not_rolled_back(services.database, services.settings)
    except Refused as refusal:
        return refusal.detail
    except SQLAlchemyError as error:
        return f"the database does not answer, or is not migrated ({type(error).__name__})"
    return None


def consume(app: Celery, name: str) -> int:
    """Celery's consumer in this thread; sandboxes started from it die with the process."""
    consumer = app.Worker(
        hostname=name,
        pool="solo",
        concurrency=1,
        queues=[QUEUE],
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_heartbeat=True,
        without_mingle=True,
    )
    consumer.start()
    return int(consumer.exitcode or 0)


def tools_of(settings: Settings, begin: Start) -> Tools:
    """The real tools: sandboxes, entropy of the operating system, Celery's shutdown flag."""
    log_path = _log_path(settings)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    limits = Limits(
        memory_bytes=settings.sandbox_memory_bytes,
        # For what runs away: no round that keeps its deadline may meet it.
        cpu_seconds=round(2 * cores * (KEPT_SECONDS + settings.round_deadline_seconds)),
        call_seconds=settings.round_deadline_seconds,
    )

    def open_trainer(task: TrainingTask, store: Data, test_store: Path | None) -> Sandbox:
        sharded = task.model_copy(update={"shards": min(cores, 64)})
        return Sandbox(
            sharded,
            store,
            test_store=test_store,
            limits=limits,
            log_path=log_path,
            start=begin,
        )

    return Tools(open_trainer=open_trainer, stopping=_stopping)


def _stopping() -> bool:
    """Whether a signal asked for shutdown; Celery sets an exit code, which may be 0."""
    asked = (state.should_stop, state.should_terminate)
    return any(code is not None and code is not False for code in asked)


class _Presence:
    """Signs of life, at most every few seconds, from the housekeeping thread."""

    def __init__(self, services: Services, name: str) -> None:
        self._services = services
        self._name = name
        self._last = float("-inf")
        self._insecure = bool(confinement.lacking())

    def __call__(self) -> None:
        """Beat when it is time."""
        if time.monotonic() - self._last < PRESENCE_SECONDS:
            return
        with self._services.database.unit_of_work() as session:
            presence.beat(session, self._name, insecure=self._insecure)
            if self._last == float("-inf"):  # its decisions are of this version's library
                archive.keep(session, now=self._services.clock())
        self._last = time.monotonic()
        if self._services.settings.alive_file is not None:
            self._services.settings.alive_file.touch()


def _leave(services: Services, name: str) -> None:
    try:
        with services.database.unit_of_work() as session:
            presence.leave(session, name)
    except SQLAlchemyError as error:
        _log.warning("leave_failed", reason=type(error).__name__)
