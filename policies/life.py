"""A revision's way from draft to active and back: stages, shadow, rollback, decisions to try on.

    draft → checked → tested → (shadow) → active → superseded

A stage says what was found, by engines, about a text that never changes; so it is never lost again.
A revision in the shadow decides nothing: what it would have decided is its replay over the inputs
stored since. This module must never let a text decide by another way than `revisions.activate`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from kit.clock import micros
from kit.ids import new_id
from policies import revisions
from policies.activation import Examination
from policies.engine import Revision
from privacy_gateway.errors import Refused, invalid

_REVISION = SQLModel.metadata.tables["policy_revision"]
_DECISION = SQLModel.metadata.tables["decision"]

MOST_DECISIONS = 10_000


def note_examined(
    session: Session, revision: Revision, examination: Examination, *, now: datetime
) -> Revision:
    """Write down how far an examination brought a revision; a worse one takes nothing back."""
    reached = {
        "checked_at": examination.findings.clean,
        "tested_at": examination.findings.clean and examination.passed,
    }
    for column, yes in reached.items():
        if yes:
            session.execute(
                _REVISION.update()
                .where(_REVISION.c.id == revision.id, _REVISION.c[column].is_(None))
                .values({column: micros(now)})
            )
    return revisions.get(session, dataset_id=revision.dataset_id, number=revision.number)


def shadow(session: Session, *, dataset_id: str, number: int, now: datetime) -> Revision:
    """Let a tested draft run in the shadow of the active revision from now on.

    Raises:
        Refused: `not_found`; `conflict` unless it is a draft that has passed its examination.
    """
    found = revisions.get(session, dataset_id=dataset_id, number=number)
    if found.stage not in ("tested", "shadow"):
        raise Refused("conflict", f"revision {number} is {found.stage}; only tested ones shadow")
    session.execute(
        _REVISION.update().where(_REVISION.c.id == found.id).values(shadowed_at=micros(now))
    )
    return revisions.get(session, dataset_id=dataset_id, number=number)


def shadowed_since(session: Session, revision: Revision) -> int | None:
    """When a revision went into the shadow, microseconds; None when it never did."""
    query = sa.select(_REVISION.c.shadowed_at).where(_REVISION.c.id == revision.id)
    found = session.execute(query).scalar_one_or_none()
    return None if found is None else int(found)


def old_text_again(
    session: Session,
    *,
    dataset_id: str,
    number: int,
    reason: str,
    actor_id: str,
    now: datetime,
    ids: Callable[[str], str] = new_id,
) -> Revision:
    """The first half of a rollback: an old text as a new draft, to be activated like any.

    Args:
        session: a writing transaction.
        dataset_id: whose policy it is.
        number: the revision whose text shall decide again.
        reason: why; kept with the new revision.
        actor_id: who goes back.
        now: when.
        ids: makes the new revision's id.

    Raises:
        Refused: `not_found`; `conflict` for a revision that never decided, or decides now.
    """
    old = revisions.get(session, dataset_id=dataset_id, number=number)
    if old.state != "superseded":
        raise Refused("conflict", f"revision {number} is {old.stage}; only superseded ones return")
    return revisions.draft(
        session,
        dataset_id=dataset_id,
        source=old.source,
        tests=old.tests,
        reason=f"rollback to revision {number}: {reason}",
        author_id=actor_id,
        now=now,
        ids=ids,
    )


def recent(
    session: Session, dataset_id: str, *, last: int, since: int | None = None
) -> list[dict[str, Any]]:
    """The newest decisions on a data set, oldest first, `input` as the text that was asked.

    Args:
        session: any transaction.
        dataset_id: whose.
        last: at most so many, 1 to 10,000.
        since: only those made at this time (microseconds) or later.

    Raises:
        Refused: `invalid_request` on `last`.
    """
    if not 1 <= last <= MOST_DECISIONS:
        raise invalid("last", f"is 1 to {MOST_DECISIONS}", value=last)
    newest = _DECISION.c.created_at.desc(), _DECISION.c.id.desc()
    query = sa.select(_DECISION).where(_DECISION.c.dataset_id == dataset_id)
    if since is not None:
        query = query.where(_DECISION.c.created_at >= since)
    rows = session.execute(query.order_by(*newest).limit(last)).mappings().all()
    return [dict(row) for row in reversed(rows)]


def by_id(session: Session, revision_ids: set[str]) -> dict[str, Revision]:
    """Revisions by their ids."""
    query = sa.select(_REVISION).where(_REVISION.c.id.in_(revision_ids))
    rows = session.execute(query).mappings()
    return {row["id"]: revisions.revision_of(row) for row in rows}
