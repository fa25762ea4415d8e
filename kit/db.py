"""One database handle for SQLite and PostgreSQL, with commits at the edge only.

`unit_of_work()` is the single place where a transaction commits: a request or a task step opens
one, everything inside takes the session and never commits. On SQLite `SELECT … FOR UPDATE` compiles
to nothing, so a writing transaction must begin with the write lock already held (`BEGIN IMMEDIATE`)
and writers of one process queue in order; without that, read-check-write admits everybody.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from kit import liveness, patience

BUSY_SECONDS = 30
TURN_SECONDS = 2.0
CACHE_KIB = 65_536
READERS_CACHE_KIB = 2_048
CHECKPOINT_PAGES = 8_000


class FifoLock:
    """A mutual exclusion that serves waiters in the order of their coming.

    `threading.Lock` lets a late thread overtake; on a hot budget one researcher could starve.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False


class Turns:
    """Callers of one name go one after the other, in the order of their coming.

    A courtesy and no lock: it keeps callers from crowding at a row lock of the database, where each
    would hold a connection and any could be served last. Who has waited `patience` goes on, so that
    a database that does not answer is not waited for by one after the other.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._guard = threading.Lock()
        self._queues: dict[str, deque[threading.Event]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Wait for the others of this name that came before, and let the next one go after."""
        mine = threading.Event()
        with self._guard:
            queue = self._queues.setdefault(name, deque())
            queue.append(mine)
            first = queue[0] is mine
        if not first:
            mine.wait(self._patience)
        try:
            yield
        finally:
            self._leave(name, mine)

    def _leave(self, name: str, mine: threading.Event) -> None:
        with self._guard:
            queue = self._queues[name]
            first = queue[0] is mine
            queue.remove(mine)
            if not queue:
                del self._queues[name]
            elif first:
                queue[0].set()


# Of PostgreSQL; SQLite's readers have a snapshot as it is.
_SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class Database:
    """Engine, sessions and the two kinds of transaction.

    Args:
        url: SQLAlchemy URL; `sqlite:///path` or `postgresql://…` (the psycopg 3 driver is implied).
        pool_size: connections kept on PostgreSQL.
        silence_seconds: how long PostgreSQL may leave a statement without an answer, and a
            transaction may leave PostgreSQL without a statement.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 16,
        silence_seconds: float = patience.SILENCE_SECONDS,
    ) -> None:
        self.url = _with_driver(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite(self.url) if self.is_sqlite else _postgresql(self.url, pool_size)
        self._writing = _sqlite_writer(self.url) if self.is_sqlite else self.engine
        if not self.is_sqlite:
            patience.install(self.engine, silence_seconds)
            liveness.install(self.engine)
        self._writer = FifoLock()
        self._turns = Turns(TURN_SECONDS)

    @contextmanager
    def unit_of_work(self) -> Iterator[Session]:
        """A writing transaction: commits at the end, rolls back on any exception."""
        line = self._writer if self.is_sqlite else nullcontext()
        with line, Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def in_turn(self, name: str) -> Iterator[None]:
        """Wait for one's turn at a row that many writers of this process want; see `Turns`.

        SQLite's writers stand in one line as it is.
        """
        with nullcontext() if self.is_sqlite else self._turns.of(name):
            yield

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A reading transaction: sees one snapshot; what it writes is refused, or does not last."""
        with Session(self.engine, expire_on_commit=False) as session:
            if not self.is_sqlite:
                session.connection(execution_options=_SNAPSHOT)
            try:
                yield session
            except BaseException:
                session.expunge_all()
                session.rollback()
                raise
            # What was read stays usable; a rollback would forget its attributes.
            session.expunge_all()
            # After a rollback psycopg forgets every statement the server has prepared for it, and
            # making their plans again costs more than reading. The server lets nothing be written.
            session.rollback() if self.is_sqlite else session.commit()

    def create_all(self) -> None:
        """Make every registered table; for tests and first starts (migrations do the rest)."""
        SQLModel.metadata.create_all(self.engine)

    def ping(self) -> None:
        """Raise unless the database answers."""
        with self.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()
        self._writing.dispose()


def _with_driver(url: str) -> sa.URL:
    parsed = sa.make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def _postgresql(url: sa.URL, pool_size: int) -> sa.Engine:
    return sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=pool_size,
        connect_args={"connect_timeout": 5},
    )


def _sqlite_writer(url: sa.URL) -> sa.Engine:
    """One connection for all writers, who come one after the other.

    Pages of a hot ledger stay at hand: reading them back from the file costs more than an insert. A
    reader's pages are worth nothing after the next commit, and there are many readers.
    """
    return _sqlite(
        url,
        begin="BEGIN IMMEDIATE",
        cache_kib=CACHE_KIB,
        # What a statement with a trigger would have to undo is kept in memory, not in a file. So
        # is what a sort needs: migrations, which make indexes, are no writers of this kind.
        more=("temp_store=MEMORY",),
        pool_size=1,
        max_overflow=0,
    )


def _sqlite(
    url: sa.URL,
    *,
    begin: str = "BEGIN",
    cache_kib: int = READERS_CACHE_KIB,
    more: Sequence[str] = (),
    **pool: int,
) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **pool)

    def begun(dbapi_connection: Any) -> None:
        dbapi_connection.execute(begin)

    # The dialect's is empty. A `begin` event would cost more than all the rest of a transaction.
    engine.dialect.do_begin = begun  # type: ignore[method-assign]

    @sa.event.listens_for(engine, "do_connect")
    def _private(_dialect: Any, _record: Any, arguments: Any, _options: Any) -> None:
        # SQLite would make the file readable to everybody on the machine; its log and index take
        # the file's mode. A file that is there must not even be opened: closing it would give up
        # the locks this process has on it. Where there is no such place, SQLite says so itself.
        if arguments and arguments[0] != ":memory:":
            with suppress(OSError):
                os.close(os.open(arguments[0], os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        # The driver must not open transactions by itself: `begin` above says which kind.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"cache_size=-{cache_kib}",
            # Every commit writes the same hot pages; the fewer times they are copied home, the
            # less waits for it. 32 MB of log are read back in a moment after a crash.
            f"wal_autocheckpoint={CHECKPOINT_PAGES}",
            # What is forgotten is overwritten, whatever a build of SQLite does by itself.
            "secure_delete=ON",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_SECONDS * 1000}",
            *more,
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine
