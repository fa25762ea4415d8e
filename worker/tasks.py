"""What a message may cause: one attempt to claim the job it names.

The message is a hint and its one argument is not trusted: a forged, stale or doubled one finds
nothing to claim. The task never raises, because Celery would log what it does not know to be
secret; whatever goes wrong, the lease ends and the job is taken up again.
"""

from __future__ import annotations

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from jobs.queue import TASK
from jobs.services import Services
from kit import log
from worker import coordinator
from worker.coordinator import Tools

LONGEST_ID = 100

_log = log.get("worker")


def register(app: Celery, services: Services, *, worker: str, tools: Tools) -> None:
    """Give the application its one task.

    Args:
        app: from `jobs.queue.celery_app`.
        services: the outside world.
        worker: this process's name in leases.
        tools: sandbox, noise, shutdown.
    """

    @app.task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def run(job_id: object = None, *_more: object, **_named: object) -> None:
        if not isinstance(job_id, str) or not 0 < len(job_id) <= LONGEST_ID:
            _log.warning("message_ignored")
            return
        try:
            coordinator.run(services, job_id, worker=worker, tools=tools)
        except SQLAlchemyError as error:
            _log.warning("database_failed", job=job_id, reason=type(error).__name__)
        except Exception as error:
            # The lease ends and brings the job back.
            _log.error("task_failed", job=job_id, reason=type(error).__name__)
