"""Jobs that measure a released model on private clients, for a price of their own.

Such a job names an earlier job whose model its researcher may have; nothing else may be measured,
because a model that was not released is not the researcher's to ask about. It is one release: one
cohort, one clipped total, one Gaussian, charged before data is opened like any round.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from jobs import settlement, tensors
from jobs.principal import Principal
from jobs.tensors import Array
from privacy_gateway import modelspec
from privacy_gateway.errors import FieldError, Refused, invalid
from privacy_gateway.schemas import JobRequest

FIELD = "initial.job"


def refuse_unknown(session: Session, principal: Principal, request: JobRequest) -> None:
    """Refuse a model that the researcher may not have, or that is none of this architecture.

    Raises:
        Refused: `invalid_request` on `initial.job`, the same for a job of somebody else, one that
            is not there, and one whose model is withheld.
    """
    if request.kind != "evaluate" or request.initial is None:
        return
    named = request.initial.job
    try:
        released = settlement.result(session, principal, named)
    except Refused as refused:
        fault = FieldError(FIELD, "is no job whose model you may have", named)
        raise Refused("invalid_request", f"{FIELD}: {fault.message}", errors=[fault]) from refused
    shapes = [array.shape for array in _arrays(released.data)]
    if shapes != [tuple(s) for s in modelspec.measure(request.model.architecture).weight_shapes]:
        raise invalid(FIELD, "its model is not of this architecture", value=named)


def _arrays(data: bytes) -> list[Array]:
    return list(tensors.from_npz(data).values())
