"""A PostgreSQL connection that does not wait for ever: a silent server is a failure, told in time.

Behind a cut network nothing comes back, no error either: libpq would wait for hours, and the other
end would keep the locks of a transaction that nobody will finish. So every answer has a deadline
here, and the server ends a transaction that has been left alone. What a statement did whose answer
never came is unknown to the caller; it must never be taken for done, nor for undone.
"""

from __future__ import annotations

from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors

# As long as a writer waits for its turn on SQLite; nothing on the hot path takes a second.
SILENCE_SECONDS = 30.0


class Impatient(psycopg.Connection[Any]):
    """A connection whose every answer must come within `silence_seconds`; None waits for ever."""

    silence_seconds: float | None = SILENCE_SECONDS

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Run one exchange with the server.

        Raises:
            psycopg.OperationalError: no answer in time; the connection is closed, because whatever
                comes later belongs to nobody.
        """
        options.setdefault("timeout", self.silence_seconds)
        try:
            return super().wait(gen, *args, **options)
        except errors._WaitTimeout as error:  # noqa: SLF001 - the one name psycopg has for it
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"the database has not answered within {options['timeout']:g} seconds"
            ) from error


def install(engine: sa.Engine, silence_seconds: float) -> None:
    """Make every new connection of a PostgreSQL engine impatient, on both sides."""

    @sa.event.listens_for(engine, "do_connect")
    def _connect(
        _dialect: sa.Dialect, _record: Any, arguments: Any, options: dict[str, Any]
    ) -> Impatient:
        connection: Impatient = Impatient.connect(*arguments, **options)
        connection.silence_seconds = silence_seconds
        return connection

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        milliseconds = max(1, round(silence_seconds * 1000))
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
        connection.commit()


def take_time(connection: sa.Connection) -> None:
    """Let this connection wait as long as it takes, and the server for an hour between statements.

    A migration of a large table may take long at either end. The connection is closed after its
    use, and not lent to others.
    """
    raw = connection.connection.driver_connection
    if isinstance(raw, Impatient):
        connection.detach()
        raw.silence_seconds = None
        connection.execute(sa.text("SET idle_in_transaction_session_timeout = '1h'"))
        connection.commit()


def let_alone(connection: sa.Connection) -> None:
    """Let the server keep this transaction open however long nothing is asked of it.

    For work of minutes that must see or write one state: a dump's snapshot, a restore's comparison.
    """
    if isinstance(connection.connection.driver_connection, Impatient):
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
