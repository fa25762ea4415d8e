"""A pooled PostgreSQL connection is asked whether it lives, where there is any doubt that it does.

A round trip before every transaction costs as much as a statement. A server that ends a connection
says so on the socket, so one that was used a moment ago and has nothing to read is alive, as far as
anybody can tell without asking; whatever else has happened shows at the first statement, as it may
at any later one. This module must never pass on a connection that is known to be dead.
"""

from __future__ import annotations

import select
import time
from typing import Any, Final

import psycopg
import sqlalchemy as sa

RECENT_SECONDS: Final = 1.0
_USED: Final = "used_at"


def install(engine: sa.Engine) -> None:
    """Let the pool look at its connections as they leave it; a dead one is replaced."""

    @sa.event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info[_USED] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _look(connection: psycopg.Connection[Any], record: Any, _proxy: Any) -> None:
        used = record.info.get(_USED)
        if used is not None and not _alive(connection, time.monotonic() - used):
            raise sa.exc.DisconnectionError("the server has ended this connection")


def _alive(connection: psycopg.Connection[Any], idle_seconds: float) -> bool:
    if connection.closed:
        return False
    if idle_seconds < RECENT_SECONDS and not _has_news(connection):
        return True
    try:
        connection.execute("SELECT 1")
        connection.commit()  # a rollback would forget what is prepared, see `kit.db`
    except psycopg.Error:
        return False
    return True


def _has_news(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has said something that nobody asked for: most often, good-bye."""
    watch = select.poll()
    watch.register(connection.fileno(), select.POLLIN)
    return bool(watch.poll(0))
