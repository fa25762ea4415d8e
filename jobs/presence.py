"""Which workers are alive, as the database hears of them: for readiness and for operators.

A row is a sign of life, nothing more: no job is given or taken because of it (that is the lease's
part), and it must never hold what a worker is working on.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from jobs.tables import WorkerPresence
from kit.database_time import database_micros

_PRESENCE = WorkerPresence.__table__  # type: ignore[attr-defined]

SILENT_SECONDS = 30.0
FORGET_SECONDS = 86_400.0


def beat(session: Session, worker: str, *, insecure: bool = False) -> None:
    """Note that the worker lives, and whether its sandboxes are open; dead ones are forgotten."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    session.execute(
        insert(_PRESENCE)
        .values(
            worker=worker,
            started_at=database_micros(),
            seen_at=database_micros(),
            insecure=insecure,
        )
        .on_conflict_do_update(index_elements=["worker"], set_={"seen_at": database_micros()})
    )
    session.execute(_PRESENCE.delete().where(_silent_for(FORGET_SECONDS)))


def leave(session: Session, worker: str) -> None:
    """Note that the worker ends in good order."""
    session.execute(_PRESENCE.delete().where(_PRESENCE.c.worker == worker))


def alive(session: Session, *, silent_seconds: float = SILENT_SECONDS) -> list[str]:
    """Names of the workers heard of within `silent_seconds`."""
    query = sa.select(_PRESENCE.c.worker).where(sa.not_(_silent_for(silent_seconds)))
    return list(session.execute(query.order_by(_PRESENCE.c.worker)).scalars())


def insecure(session: Session, *, silent_seconds: float = SILENT_SECONDS) -> bool:
    """Whether a living worker trains on a machine that cannot close a sandbox."""
    query = sa.select(_PRESENCE.c.worker).where(
        sa.not_(_silent_for(silent_seconds)), _PRESENCE.c.insecure
    )
    return session.execute(query.limit(1)).first() is not None


def _silent_for(seconds: float) -> sa.ColumnElement[bool]:
    return _PRESENCE.c.seen_at < (  # type: ignore[no-any-return]
        database_micros() - round(seconds * 1_000_000)
    )
