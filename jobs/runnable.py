"""What the workers can run: the one place to widen when they learn something new.

The accountant prices more than the workers can run, so a quote answers for all of it and says
`unsupported` beside the price, while a submit is refused before anything is reserved. To make
something runnable, add its name to the set below and nothing else here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.schemas import JobRequest, Rule

ALGORITHMS: Final = ("dp_fedavg", "dp_fedsgd", "dp_fedprox", "dp_ftrl")
SAMPLINGS: Final = ("poisson", "fixed_size", "none")
CLIPPINGS: Final = ("fixed", "adaptive")

CODE: Final = "unsupported"


def refuse(request: JobRequest) -> None:
    """Raise for a well-formed request that no worker can run.

    Raises:
        Refused: `unsupported`, with every field at fault.
    """
    faults = list(_faults(request))
    if faults:
        raise Refused(CODE, f"{faults[0].field}: {faults[0].message}", errors=faults)


def rules(request: JobRequest) -> list[Rule]:
    """The same as rules beside a price; empty when the workers can run it."""
    return [
        Rule(code=CODE, field=fault.field, message=fault.message, value=str(fault.value))
        for fault in _faults(request)
    ]


def _faults(request: JobRequest) -> Iterator[FieldError]:
    algorithm = request.algorithm
    clipping = "adaptive" if algorithm.clip_norm == "adaptive" else "fixed"
    if request.mock:
        yield FieldError("mock", "mock jobs run on the client's side, in pg.local", True)
    if request.kind == "query":
        why = "a query needs columns with bounds; a data set declares features and a label"
        yield FieldError("kind", why, request.kind)
    yield from _outside("sampling", request.sampling, SAMPLINGS)
    yield from _outside("algorithm.name", algorithm.name, ALGORITHMS)
    yield from _outside("algorithm.clip_norm", clipping, CLIPPINGS)
    if request.kind == "train" and "dp_metrics" in request.outputs:
        why = "dp_metrics are a release of their own: ask for an evaluate job of the released model"
        yield FieldError("outputs", why, "dp_metrics")


def _outside(field: str, value: str, known: Collection[str]) -> Iterator[FieldError]:
    if value not in known:
        names = ", ".join(known)
        yield FieldError(field, f"the workers cannot run {value}, only {names}", value)
