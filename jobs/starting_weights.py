"""Weights that a researcher uploads, to begin a job with.

They cost no privacy: they were made without the people's data, or from what was released. A file
is checked before it is stored, in one form only, under the digest of its content, so whoever names
it names its numbers. This module must never store what it did not read itself, and never show one
researcher's upload to another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs.principal import Principal
from jobs.tables import LIVE_STATES, Job, JobRelease
from jobs.tables_weights import STARTING_WEIGHTS
from kit import tensors
from kit.clock import micros
from privacy_gateway import tensor_files
from privacy_gateway.errors import Refused
from privacy_gateway.first_weights import Initial
from privacy_gateway.layer_base import Shape

# Where a request says what it begins with.
FIELD: Final = "initial"
PREFIX: Final = "wts_"
# Names, shapes and padding of an archive, beside the numbers themselves.
OVERHEAD_BYTES: Final = 1 << 20
_WIDEST_NUMBER: Final = 8

_JOB = Job.__table__  # type: ignore[attr-defined]
_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]
_FACTS = (
    STARTING_WEIGHTS.c.id,
    STARTING_WEIGHTS.c.shapes,
    STARTING_WEIGHTS.c.parameters,
    STARTING_WEIGHTS.c.size_bytes,
    STARTING_WEIGHTS.c.created_at,
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was read and checked; `data` is its canonical safetensors."""

    id: str
    shapes: tuple[Shape, ...]
    data: bytes


def most_bytes(parameters: int) -> int:
    """Largest file that can hold a model of so many parameters."""
    return parameters * _WIDEST_NUMBER + OVERHEAD_BYTES


def read(data: bytes, *, parameters: int) -> Upload:
    """Check an uploaded file and give it its name.

    Raises:
        Refused: `too_large`, `unsupported`, `invalid_request`; see `tensor_files.read`.
    """
    arrays = list(tensor_files.read(data, parameters=parameters).values())
    stored = tensors.dump({f"weight_{place:04d}": array for place, array in enumerate(arrays)})
    shapes = tuple(array.shape for array in arrays)
    return Upload(PREFIX + tensors.digest(stored), shapes, stored)


def keep(
    session: Session, principal: Principal, upload: Upload, *, most_stored: int, now: datetime
) -> Any:
    """Store an upload; the same numbers again are the same upload.

    Raises:
        Refused: `too_large` when the researcher's uploads would pass `most_stored` bytes together.
    """
    known = find(session, principal, upload.id, missing_ok=True)
    if known is not None:
        return known
    total = sa.select(sa.func.coalesce(sa.func.sum(STARTING_WEIGHTS.c.size_bytes), 0)).where(
        STARTING_WEIGHTS.c.researcher_id == principal.id
    )
    after = int(session.execute(total).scalar_one()) + len(upload.data)
    if after > most_stored:
        detail = f"your uploads would have {after} bytes together; at most {most_stored} are kept"
        raise Refused("too_large", f"{detail}: delete one", limit=most_stored)
    session.execute(
        STARTING_WEIGHTS.insert().values(
            researcher_id=principal.id,
            id=upload.id,
            shapes=json.dumps(upload.shapes),
            parameters=sum(int(np.prod(shape)) for shape in upload.shapes),
            size_bytes=len(upload.data),
            data=upload.data,
            created_at=micros(now),
        )
    )
    return find(session, principal, upload.id)


def find(
    session: Session, principal: Principal, weights_id: str, *, missing_ok: bool = False
) -> Any:
    """The facts of one of the caller's own uploads.

    Raises:
        Refused: `not_found`, unless `missing_ok`.
    """
    row = session.execute(sa.select(*_FACTS).where(_mine(principal.id, weights_id))).one_or_none()
    if row is None and not missing_ok:
        raise Refused("not_found", f"there are no weights {weights_id} of yours")
    return row


def mine(principal: Principal) -> sa.Select[Any]:
    """The caller's uploads, without the numbers."""
    return sa.select(*_FACTS).where(STARTING_WEIGHTS.c.researcher_id == principal.id)


def remove(session: Session, principal: Principal, weights_id: str) -> None:
    """Forget an upload that no job of its researcher waits for.

    Raises:
        Refused: `not_found`; `conflict` while a job that is not over names it.
    """
    find(session, principal, weights_id)
    live = sa.select(_JOB.c.id, _JOB.c.request).where(
        _JOB.c.researcher_id == principal.id, _JOB.c.status.in_(LIVE_STATES)
    )
    for job in session.execute(live):
        if (json.loads(job.request).get(FIELD) or {}).get("weights") == weights_id:
            raise Refused("conflict", f"{job.id} begins with {weights_id} and is not over")
    session.execute(STARTING_WEIGHTS.delete().where(_mine(principal.id, weights_id)))


def content(session: Session, researcher_id: str, weights_id: str) -> bytes | None:
    """The file of an upload, for a worker; None when it is gone."""
    query = sa.select(STARTING_WEIGHTS.c.data).where(_mine(researcher_id, weights_id))
    return session.execute(query).scalar_one_or_none()


def provenance(session: Session, initial: Initial) -> dict[str, Any]:
    """What a receipt says of the first weights; the digest outlives both upload and release."""
    if initial.job is None:
        digest = (initial.weights or "").removeprefix(PREFIX)
        return {"kind": "upload", "weights": initial.weights, "sha256": digest}
    newest = sa.select(_RELEASE.c.round, _RELEASE.c.digest).where(_RELEASE.c.job_id == initial.job)
    row = session.execute(newest.order_by(_RELEASE.c.round.desc()).limit(1)).one()
    return {"kind": "release", "job": initial.job, "round": row.round, "sha256": row.digest}


def _mine(researcher_id: str, weights_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        STARTING_WEIGHTS.c.researcher_id == researcher_id, STARTING_WEIGHTS.c.id == weights_id
    )
