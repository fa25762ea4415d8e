"""Idempotency keys: a researcher's name for one attempt, kept for ever once a job stands for it.

A key is taken before anything else is locked, so equal posts of other processes wait for the first
one here; keys are taken in one order, so two groups cannot wait for each other. A refused attempt
does not use its key up. This module must never let one key stand for two jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs.attempt import Attempt, Outcome
from jobs.tables import Idempotency, Job
from jobs.views import job_view
from kit import prepared
from kit.clock import micros
from kit.prepared import Answer, Asked, Call, Prepared, Rows
from privacy_gateway.errors import FieldError, Refused, invalid

MAX_KEY_LENGTH = 200

Mine = tuple[str, str]

_IDEMPOTENCY = Idempotency.__table__  # type: ignore[attr-defined]

# Built once: composing a statement costs more than running it.
_KNOWN = Prepared(
    sa.select(_IDEMPOTENCY.c.request_hash, _IDEMPOTENCY.c.job_id).where(
        _IDEMPOTENCY.c.principal_id == sa.bindparam("principal"),
        _IDEMPOTENCY.c.key == sa.bindparam("named"),
    )
)
_TAKE = Rows(
    _IDEMPOTENCY,
    made=lambda insert: insert.on_conflict_do_nothing(
        index_elements=["principal_id", "key"]
    ).returning(_IDEMPOTENCY.c.job_id),
)
_RETURN = Prepared(
    sa.delete(_IDEMPOTENCY).where(
        _IDEMPOTENCY.c.principal_id == sa.bindparam("principal"),
        _IDEMPOTENCY.c.key == sa.bindparam("named"),
    )
)
_PUT = Rows(_IDEMPOTENCY)


def check(key: str | None) -> None:
    """Refuse a key that cannot be one.

    Raises:
        Refused: `invalid_request` naming `Idempotency-Key`.
    """
    if key is not None and not (1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        raise invalid("Idempotency-Key", f"is 1 to {MAX_KEY_LENGTH} printable characters")


def known(session: Session, mine: tuple[str, str | None], request_hash: str) -> Outcome | None:
    """The job this key stands for already, if any.

    Raises:
        Refused: `idempotency_mismatch` when it was made by another body.
    """
    (found,) = prepared.ask(session, looking_up(mine))
    return None if found is None else outcome_of(session, mine, request_hash, found)


def looking_up(mine: tuple[str, str | None]) -> Asked[Any]:
    """The row of a key, None where there is none, as a part of a batch."""
    principal_id, key = mine
    if key is None:
        return Asked([], lambda _: None)
    wanted = {"principal": principal_id, "named": key}
    return Asked([(_KNOWN, wanted)], lambda answers: next(iter(answers[0].rows), None))


def outcome_of(
    session: Session, mine: tuple[str, str | None], request_hash: str, found: Any
) -> Outcome:
    """The job a key's row stands for; see `known`.

    Raises:
        Refused: `idempotency_mismatch`.
    """
    refuse_other_body(mine[1] or "", found.request_hash, request_hash, found.job_id)
    return Outcome(job_view(session, session.get_one(Job, found.job_id)), replayed=True)


def refuse_other_body(key: str, before: str, now: str, job_id: str) -> None:
    """The same key with another body is no repetition.

    Raises:
        Refused: `idempotency_mismatch`.
    """
    if before != now:
        raise Refused(
            "idempotency_mismatch",
            "this Idempotency-Key stands for a job with another body; take a new key",
            errors=[FieldError("Idempotency-Key", "was used with another body", key)],
            job=job_id,
        )


def taking(attempts: Iterable[Attempt], now: datetime) -> Asked[dict[Mine, Attempt]]:
    """Make these attempts' keys ours, as a part of a batch; waits for concurrent holders.

    It gives the first attempt of each key that stood for no job; the others' keys belong to jobs.
    """
    firsts: dict[Mine, Attempt] = {}
    for attempt in attempts:
        if attempt.key is not None:
            firsts.setdefault((attempt.principal.id, attempt.key), attempt)
    rows = [_row(mine, firsts[mine], now) for mine in sorted(firsts)]

    def read(answers: Sequence[Answer]) -> dict[Mine, Attempt]:
        taken = {row.job_id for answer in answers for row in answer.rows}
        return {mine: attempt for mine, attempt in firsts.items() if attempt.job_id in taken}

    return Asked([(_TAKE, rows)] if rows else [], read)


def settling(
    taken: Mapping[Mine, Attempt], admitted: Mapping[Mine, Attempt], now: datetime
) -> Asked[None]:
    """Leave each taken key to the attempt that was admitted under it, or to nobody."""
    moved = [mine for mine, attempt in taken.items() if admitted.get(mine) is not attempt]
    calls: list[Call] = [(_RETURN, {"principal": who, "named": key}) for who, key in moved]
    again = [_row(mine, admitted[mine], now) for mine in moved if mine in admitted]
    if again:
        calls.append((_PUT, again))
    return prepared.nothing(calls)


def _row(mine: Mine, attempt: Attempt, now: datetime) -> dict[str, object]:
    return {
        "principal_id": mine[0],
        "key": mine[1],
        "request_hash": attempt.request_hash,
        "job_id": attempt.job_id,
        "created_at": micros(now),
    }
