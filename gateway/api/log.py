"""The log of the ledger: checkpoints, proofs and keys, for anybody who keeps an eye on it.

Checkpoints and keys are the same for everybody and say nothing about anybody but how many entries
there are. A proof about one entry is given to those who may see the entry; a researcher finds the
proof of a job's entries in its receipt.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from accounting import log
from gateway import scope
from gateway.deps import Anybody, Outside, OwnerOrAuditor
from kit.clock import rfc3339
from privacy_gateway import checkpoint, merkle
from privacy_gateway.errors import Refused
from privacy_gateway.views import (
    CheckpointView,
    ConsistencyView,
    InclusionView,
    LogKeyView,
    Page,
)

router = APIRouter(prefix="/v1/ledger", tags=["ledger"])

Size = Annotated[int, Query(ge=1, le=merkle.MAX_SIZE, description="leaves of a tree")]


@router.get("/checkpoint")
def newest(services: Outside, _caller: Anybody) -> CheckpointView:
    """The newest signed checkpoint; `not_ready` before the first entry is integrated."""
    with services.database.read() as session:
        found = _newest(session)
    return CheckpointView(
        origin=found.origin,
        size=found.size,
        root=found.root,
        note=found.note,
        signed_at=rfc3339(found.signed_at),
    )


@router.get("/keys")
def keys(services: Outside, _caller: Anybody) -> Page[LogKeyView]:
    """Every public key that ever signed a checkpoint of this log, oldest first."""
    with services.database.read() as session:
        found, latest = log.keys(session), log.latest(session)
    signing = checkpoint.parse(latest.note).signatures if latest else ()
    ids = {made.key_id for made in signing}
    items = []
    for key in found:
        key_id = checkpoint.read_verifier(key.public).key_id
        items.append(
            LogKeyView(
                public=key.public,
                key_id=key_id.hex(),
                first_signed_at=rfc3339(key.first_signed_at),
                signs=key_id in ids,
            )
        )
    return Page[LogKeyView](items=items, next=None)


@router.get("/proofs/inclusion")
def inclusion(
    services: Outside,
    caller: OwnerOrAuditor,
    seq: Annotated[
        int,
        Query(
            ge=0,
            le=merkle.MAX_SIZE,
            description="with `population` an entry's seq in that chain, from 1; without it a"
            " place in the log, from 0",
        ),
    ],
    population: Annotated[str | None, Query(max_length=100)] = None,
    size: Size | None = None,
) -> InclusionView:
    """Proof that an entry is in the log; against the newest checkpoint when no size is given."""
    with services.database.read() as session:
        visible = scope.population_ids(session, caller)
        entry = (
            log.place(session, seq)
            if population is None
            else log.place_of(session, population, seq)
        )
        if visible is not None and entry.population_id not in visible:
            raise Refused("not_found", log.NO_LEAF)
        proof = log.inclusion(session, entry, size or _newest(session).size)
    return InclusionView(
        population=entry.population_id,
        seq=entry.seq,
        index=entry.place,
        size=proof.size,
        hash=entry.hash,
        leaf_hash=merkle.leaf_hash(bytes.fromhex(entry.hash)).hex(),
        root=proof.root.hex(),
        path=[part.hex() for part in proof.path],
    )


@router.get("/proofs/consistency")
def consistency(services: Outside, _caller: Anybody, first: Size, second: Size) -> ConsistencyView:
    """Proof that the log only grew between two sizes."""
    with services.database.read() as session:
        proof = log.consistency(session, first, second)
    return ConsistencyView(
        first=first,
        second=second,
        first_root=proof.first_root.hex(),
        second_root=proof.second_root.hex(),
        path=[part.hex() for part in proof.path],
    )


def _newest(session: Session) -> log.Signed:
    found = log.latest(session)
    if found is None:
        raise Refused("not_ready", "no checkpoint is signed yet")
    return found
