"""What a job begins with: uploaded weights, or a model that was released earlier.

Neither costs privacy: an upload was made without the people's data or from releases, and a released
model is known to its researcher already. So a job may begin only with an upload of its researcher,
or with what she could download at this moment; on people's data an evaluation measures releases
alone (`jobs.floors`). This module must never give weights to anybody but a worker.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs import settlement, starting_weights
from jobs.principal import Principal
from jobs.tables import JobRelease
from kit import tensors
from privacy_gateway import modelspec
from privacy_gateway.errors import FieldError, Refused, invalid
from privacy_gateway.first_weights import Initial
from privacy_gateway.layer_base import Shape
from privacy_gateway.modelspec import ModelSpec
from privacy_gateway.schemas import JobRequest

Weights = list[npt.NDArray[np.float32]]

_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]


def refuse_unknown(session: Session, principal: Principal, request: JobRequest) -> None:
    """Refuse weights that the researcher may not have, or that are none of this architecture.

    Raises:
        Refused: `invalid_request` on `initial.job` (the same for a job of somebody else, one that
            is not there, and one whose model is withheld), `initial.round` or `initial.weights`.
    """
    initial = request.initial
    if initial is None:
        return
    wanted = tuple(modelspec.size_of(request.model.architecture).weight_shapes)
    if initial.job is None:
        field, named = "initial.weights", initial.weights or ""
        shapes = _uploaded_shapes(session, principal, named, field)
    else:
        field, named = "initial.job", initial.job
        shapes = _released_shapes(session, principal, initial, named, field)
    if shapes != wanted:
        raise invalid(field, _difference(shapes, wanted), value=named)


def load(session: Session, researcher_id: str, initial: Initial, spec: ModelSpec) -> Weights:
    """The arrays in the order of the specification, for a worker; `refuse_unknown` let them pass.

    Raises:
        ValueError: they are gone, or are not those of the architecture.
    """
    if initial.job is None:
        data = starting_weights.content(session, researcher_id, initial.weights or "")
    else:
        kept = sa.select(_RELEASE.c.weights).where(
            _RELEASE.c.job_id == initial.job, _RELEASE.c.weights.is_not(None)
        )
        data = session.execute(kept.order_by(_RELEASE.c.round.desc()).limit(1)).scalar_one_or_none()
    if data is None:
        raise ValueError("Expected first weights that are still kept")
    arrays = [np.asarray(array, np.float32) for array in tensors.load(data).values()]
    if _shapes_of(arrays) != tuple(modelspec.size_of(spec).weight_shapes):
        raise ValueError("Expected first weights in the shapes of the architecture")
    return arrays


def _uploaded_shapes(
    session: Session, principal: Principal, named: str, field: str
) -> tuple[Shape, ...]:
    row = starting_weights.find(session, principal, named, missing_ok=True)
    if row is None:
        raise invalid(field, "is no upload of yours", value=named)
    return tuple(tuple(shape) for shape in json.loads(row.shapes))


def _released_shapes(
    session: Session, principal: Principal, initial: Initial, named: str, field: str
) -> tuple[Shape, ...]:
    """Shapes of what the researcher could download now."""
    try:
        released = settlement.result(session, principal, named)
    except Refused as refused:
        fault = FieldError(field, "is no job whose model you may have", named)
        raise Refused("invalid_request", f"{field}: {fault.message}", errors=[fault]) from refused
    newest = sa.select(sa.func.max(_RELEASE.c.round)).where(_RELEASE.c.job_id == named)
    kept = int(session.execute(newest).scalar_one())
    if initial.round not in (None, kept):
        message = f"only the model after the last released round, {kept}, is kept"
        raise invalid("initial.round", message, value=initial.round, limit=kept)
    return _shapes_of(list(tensors.load(released.data).values()))


def _shapes_of(arrays: list[npt.NDArray[np.generic]] | Weights) -> tuple[Shape, ...]:
    return tuple(array.shape for array in arrays)


def _difference(given: tuple[Shape, ...], wanted: tuple[Shape, ...]) -> str:
    """The first place at which weights and architecture disagree."""
    reason = "its model is not of this architecture"
    if len(given) != len(wanted):
        return f"{reason}: {len(given)} tensors for {len(wanted)}"
    pairs = enumerate(zip(given, wanted, strict=True))
    place, (one, other) = next(item for item in pairs if item[1][0] != item[1][1])
    return f"{reason}: tensor {place} is {list(one)}, not {list(other)}"
