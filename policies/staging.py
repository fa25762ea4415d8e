"""Which revisions a policy server must hold: those that decide, and those about to.

A server that lives by signed bundles fetches them in its own time. So a revision that has passed
its examination is staged first, waited for, and becomes active only when every engine can be asked
about it: no decision falls into a gap. Nothing here decides, or may stage what was not examined.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from kit.clock import micros
from policies.engine import PolicyEngine, Revision
from policies.errors import EngineFailed
from policies.revisions import revision_of
from policies.tables import IS_ACTIVE, PolicyRevision
from privacy_gateway.errors import Refused

STAGED_FOR = timedelta(hours=1)
READY_SECONDS = 20.0

_REVISION = PolicyRevision.__table__  # type: ignore[attr-defined]


def stage(session: Session, revision: Revision, *, now: datetime) -> None:
    """Let the next bundle carry a draft that has passed its examination."""
    moment = micros(now)
    session.execute(
        sa.update(_REVISION)
        .where(_REVISION.c.id == revision.id, _REVISION.c.state == "draft")
        .values(
            checked_at=sa.func.coalesce(_REVISION.c.checked_at, moment),
            tested_at=sa.func.coalesce(_REVISION.c.tested_at, moment),
            shadowed_at=moment,
        )
    )


def held(session: Session, *, now: datetime) -> list[Revision]:
    """Every active revision, and drafts staged within the hour; by id."""
    recent = micros(now - STAGED_FOR)
    query = sa.select(_REVISION).where(
        sa.or_(
            IS_ACTIVE,
            sa.and_(_REVISION.c.state == "draft", _REVISION.c.shadowed_at >= recent),
        )
    )
    rows = session.execute(query.order_by(_REVISION.c.id)).mappings()
    return [revision_of(row) for row in rows]


def wait(
    engines: Sequence[PolicyEngine], revision: Revision, *, seconds: float = READY_SECONDS
) -> None:
    """Return when every engine can be asked about a staged revision.

    Raises:
        Refused: `policy_unavailable` when one cannot in time; the old revision goes on deciding.
    """
    for engine in engines:
        try:
            engine.ready(revision, seconds)
        except EngineFailed as failure:
            detail = f"{engine.name} cannot be asked about the revision: {failure}"
            raise Refused("policy_unavailable", detail) from failure
