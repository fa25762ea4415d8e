"""The broker carries hints: a message is a job id, and nothing that depends on it may be trusted.

A forged, doubled, lost, late or reordered message changes nothing but timing, because the claim
on the job's row decides who works. So there is no result backend, no late ack, no remote control,
no pickle, and nobody waits for the broker longer than the socket timeout. This module is the only
one below the worker that knows Celery; nothing here may be called inside a transaction.

Pool. A worker is one process with Celery's `solo` pool: the coordinator runs in it and the
sandbox is its one child. A prefork pool would add a process between them that survives a kill -9
of its parent and cannot see SIGTERM; `spawn` is still set, so that an operator who asks for
prefork (`--pool prefork`) gets children that never fork a process with threads. More jobs at a
time means more worker processes.
"""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from jobs.errors import BrokerDown

TASK = "privacy_gateway.run"
QUEUE = "privacy-gateway.jobs"
SOCKET_SECONDS = 2.0
# A hint that waited this long behind a busy worker is stale; the relay sends a fresh one.
HINT_SECONDS = 300.0


def celery_app(redis_url: str, *, queue: str = QUEUE) -> Celery:
    """The Celery application of gateway and worker.

    Args:
        redis_url: `redis://host:port/0`, or a unix socket as `redis+socket:///path/to/socket`
            (`unix:///path` is understood too); RabbitMQ by `amqp://…`.
        queue: name of the queue; a silo has its own.
    """
    app = Celery("privacy-gateway", broker=broker_url(redis_url), backend=None)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=SOCKET_SECONDS,
        broker_pool_limit=2,
        broker_transport_options={
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        enable_utc=True,
        result_backend=None,
        task_acks_late=False,
        task_default_queue=queue,
        task_ignore_result=True,
        task_publish_retry=False,
        task_serializer="json",
        task_store_errors_even_if_ignored=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_pool="solo",
        worker_pool_start_method="spawn",
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    return app


def broker_url(redis_url: str) -> str:
    """`redis_url` in the spelling kombu understands."""
    if redis_url.startswith("unix://"):
        return "redis+socket://" + redis_url.removeprefix("unix://")
    return redis_url


class Queue:
    """The sending end: one method, used by the outbox relay alone."""

    def __init__(self, redis_url: str, *, queue: str = QUEUE) -> None:
        self._app = celery_app(redis_url, queue=queue)

    def __repr__(self) -> str:
        return f"Queue({maybe_sanitize_url(self._app.conf.broker_url)!r})"

    def send(self, job_id: str) -> None:
        """Announce a job.

        Raises:
            BrokerDown: the broker refused or did not answer within the socket timeout.
        """
        try:
            self._app.send_task(
                TASK, args=[job_id], retry=False, ignore_result=True, expires=HINT_SECONDS
            )
        except (OperationalError, OSError) as error:
            raise BrokerDown(type(error).__name__) from error

    def ping(self) -> None:
        """Raise `BrokerDown` unless the broker answers within the socket timeout."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(
                    max_retries=1, timeout=SOCKET_SECONDS, interval_start=0, interval_step=0
                )
                connection.default_channel.queue_declare(
                    QUEUE, passive=False, durable=True, auto_delete=False
                )
        except (OperationalError, OSError) as error:
            raise BrokerDown(type(error).__name__) from error

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()
