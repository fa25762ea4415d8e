"""The numbered, immutable revisions of a data set's policy, and the log of its decisions.

A text never changes once stored; going back is a new revision with the old text. At most one
revision of a data set is active, held by the database. Functions take the session first and never
commit, so a refused activation leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from kit import prepared
from kit.clock import from_micros, micros
from kit.ids import new_id
from kit.prepared import Rows
from policies import archive
from policies.activation import Examination, examine, refuse_unless_passed
from policies.ask import Decision
from policies.engine import PolicyEngine, Revision, Stage, State, text_digest
from policies.probes import Floor, no_floor
from policies.tables import IS_ACTIVE, DecisionRow, PolicyRevision
from policies.text import TextRefused, package_of
from privacy_gateway import canonical
from privacy_gateway.errors import FieldError, Refused, invalid

LARGEST_TEXT = 64 * 1024
_REVISION = cast("sa.Table", PolicyRevision.__table__)  # type: ignore[attr-defined]
_DECISION = cast("sa.Table", DecisionRow.__table__)  # type: ignore[attr-defined]
_NUMBERING_ATTEMPTS = 8

# Built once: every admission runs them, and composing a statement costs more than running it.
_ACTIVE = sa.select(_REVISION).where(_REVISION.c.dataset_id == sa.bindparam("dataset"), IS_ACTIVE)
RECORD = Rows(_DECISION)


def draft(
    session: Session,
    *,
    dataset_id: str,
    source: str,
    tests: str,
    reason: str,
    author_id: str,
    now: datetime,
    ids: Callable[[str], str] = new_id,
) -> Revision:
    """Store a text as the next revision of a data set; it decides nothing yet.

    Raises:
        Refused: `invalid_request` on `source` or `tests`: too long, or no package line.
    """
    _refuse_text(source, tests)
    for _ in range(_NUMBERING_ATTEMPTS):
        revision = Revision(
            id=ids("pol"),
            dataset_id=dataset_id,
            number=_last_number(session, dataset_id) + 1,
            source=source,
            tests=tests,
            digest=text_digest(source, tests),
            reason=reason,
            author_id=author_id,
            created_at=now,
        )
        try:
            with session.begin_nested():
                session.execute(_REVISION.insert().values(_row(revision, now)))
        except IntegrityError:
            continue  # another author took the number
        return revision
    raise Refused("conflict", "the data set's policy is being changed by others; try again")


def get(session: Session, *, dataset_id: str, number: int) -> Revision:
    """One revision.

    Raises:
        Refused: `not_found`.
    """
    query = _of_dataset(dataset_id).where(_REVISION.c.number == number)
    row = session.execute(query).mappings().one_or_none()
    if row is None:
        raise Refused("not_found", f"the data set has no policy revision {number}")
    return revision_of(row)


def list_revisions(
    session: Session, dataset_id: str, *, after: int = 0, limit: int = 100
) -> list[Revision]:
    """Revisions with numbers above `after`, in order."""
    query = _of_dataset(dataset_id).where(_REVISION.c.number > after)
    rows = session.execute(query.order_by(_REVISION.c.number).limit(limit)).mappings()
    return [revision_of(row) for row in rows]


def active(session: Session, dataset_id: str) -> Revision | None:
    """The revision that decides now, if any."""
    row = session.execute(_ACTIVE, {"dataset": dataset_id}).mappings().one_or_none()
    return None if row is None else revision_of(row)


def activate(
    session: Session,
    engines: Sequence[PolicyEngine],
    *,
    dataset_id: str,
    number: int,
    actor_id: str,
    now: datetime,
    floor: Floor = no_floor,
    examination: Examination | None = None,
) -> Revision:
    """Let a draft decide from now on; the revision that did so is superseded.

    Args:
        session: a writing transaction.
        engines: all configured engines; each must agree.
        dataset_id: whose policy it is.
        number: which revision.
        actor_id: who activates.
        now: moment of activation.
        floor: see `policies.probes.floor_of`.
        examination: result of `activation.examine` on this very text, made outside of the
            transaction; without it the examination happens here.

    Raises:
        Refused: `not_found`; `conflict` unless it is a draft; `policy_refused` with every problem;
            `policy_unavailable` when an engine does not work. Nothing is changed then.
    """
    revision = _locked(session, dataset_id, number)
    if revision.state != "draft":
        hint = "store its text as a new revision to return to it"
        raise Refused("conflict", f"revision {number} is {revision.state}, not a draft; {hint}")
    if examination is None or examination.digest != revision.digest:
        examination = examine(engines, revision, floor=floor)
    refuse_unless_passed(examination)
    archive.keep(session, now=now)
    moment = micros(now)
    session.execute(
        _REVISION.update()
        .where(_REVISION.c.dataset_id == dataset_id, IS_ACTIVE)
        .values(state="superseded", superseded_at=moment)
    )
    session.execute(
        _REVISION.update()
        .where(_REVISION.c.id == revision.id)
        .values(state="active", activated_at=moment, activated_by=actor_id)
    )
    return get(session, dataset_id=dataset_id, number=number)


def record(
    session: Session,
    decision: Decision,
    *,
    job_id: str | None,
    subject_id: str,
    now: datetime,
    dataset_id: str | None = None,
    ids: Callable[[str], str] = new_id,
) -> str:
    """Append a decision to the log and return its id.

    Args:
        session: a writing transaction.
        decision: what `ask` returned.
        job_id: the job decided on; None for a question that made none.
        subject_id: the researcher.
        now: moment of the decision.
        dataset_id: taken from the question unless given.
        ids: makes the id.
    """
    row = decision_row(
        decision, job_id=job_id, subject_id=subject_id, now=now, dataset_id=dataset_id, ids=ids
    )
    prepared.ask(session, prepared.nothing([(RECORD, [row])]))
    return str(row["id"])


def decision_row(
    decision: Decision,
    *,
    job_id: str | None,
    subject_id: str,
    now: datetime,
    dataset_id: str | None = None,
    ids: Callable[[str], str] = new_id,
) -> dict[str, Any]:
    """The columns of a decision, with an id of its own, for `RECORD`; see `record`."""
    return {
        "id": ids("dec"),
        "job_id": job_id,
        "dataset_id": dataset_id or _dataset_of(decision),
        "subject_id": subject_id,
        "revision_id": decision.revision_id if decision.revision_number else None,
        "revision_number": decision.revision_number,
        "revision_digest": decision.revision_digest,
        "library_digest": decision.library_digest,
        "outcome": decision.verdict.outcome,
        "code": decision.code,
        "fault": None if decision.fault is None else str(decision.fault),
        "detail": decision.detail,
        "verdict": decision.verdict.canonical().decode(),
        "input": decision.input_bytes.decode(),
        "input_digest": decision.input_digest,
        "digest": decision.digest,
        "engine": decision.engine,
        "engine_version": decision.engine_version,
        "latency_us": decision.latency_us,
        "created_at": micros(now),
    }


def decisions(
    session: Session,
    *,
    dataset_ids: Sequence[str] | None = None,
    job_id: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Recorded decisions in the order of their ids, after one of them; see `decision`.

    Args:
        session: any transaction.
        dataset_ids: only these data sets; None for all.
        job_id: only this job; None for all.
        after: id of the last one seen; None for the first page.
        limit: the most to return.
    """
    query = sa.select(_DECISION).order_by(_DECISION.c.id).limit(limit)
    if dataset_ids is not None:
        query = query.where(_DECISION.c.dataset_id.in_(dataset_ids))
    if job_id is not None:
        query = query.where(_DECISION.c.job_id == job_id)
    if after is not None:
        query = query.where(_DECISION.c.id > after)
    return [_read_decision(row) for row in session.execute(query).mappings()]


def decision(session: Session, decision_id: str) -> dict[str, Any]:
    """One recorded decision: columns as stored, `verdict` and `input` parsed, time as datetime.

    Raises:
        Refused: `not_found`.
    """
    query = sa.select(_DECISION).where(_DECISION.c.id == decision_id)
    row = session.execute(query).mappings().one_or_none()
    if row is None:
        raise Refused("not_found", f"there is no decision {decision_id}")
    return _read_decision(row)


def _refuse_text(source: str, tests: str) -> None:
    for name, text in (("source", source), ("tests", tests)):
        size = len(text.encode())
        if size > LARGEST_TEXT:
            raise invalid(name, f"has {size} bytes", limit=LARGEST_TEXT)
        if "\x00" in text:
            raise invalid(name, "holds a zero byte")
    try:
        package_of(source)
    except TextRefused as refused:
        message = f"line {refused.line}, column {refused.column}: {refused.message}"
        raise Refused(
            "invalid_request", f"source: {message}", errors=[FieldError("source", message)]
        ) from refused


def _last_number(session: Session, dataset_id: str) -> int:
    query = sa.select(sa.func.max(_REVISION.c.number)).where(_REVISION.c.dataset_id == dataset_id)
    return session.execute(query).scalar() or 0


def _locked(session: Session, dataset_id: str, number: int) -> Revision:
    """The revision, with every revision of its data set locked: activations queue."""
    # Not against key shares: a decision's row takes one, then waits for the population's lock.
    query = _of_dataset(dataset_id).order_by(_REVISION.c.id).with_for_update(key_share=True)
    rows = {row["number"]: row for row in session.execute(query).mappings()}
    if number not in rows:
        raise Refused("not_found", f"the data set has no policy revision {number}")
    return revision_of(rows[number])


def _of_dataset(dataset_id: str) -> sa.Select[Any]:
    return sa.select(_REVISION).where(_REVISION.c.dataset_id == dataset_id)


def _row(revision: Revision, now: datetime) -> dict[str, Any]:
    return {
        "id": revision.id,
        "dataset_id": revision.dataset_id,
        "number": revision.number,
        "source": revision.source,
        "tests": revision.tests,
        "digest": revision.digest,
        "state": "draft",
        "reason": revision.reason,
        "author_id": revision.author_id,
        "created_at": micros(now),
    }


def revision_of(row: sa.RowMapping | Mapping[str, Any]) -> Revision:
    """A revision from its table row."""
    activated = row["activated_at"]
    return Revision(
        id=row["id"],
        dataset_id=row["dataset_id"],
        number=row["number"],
        source=row["source"],
        tests=row["tests"],
        digest=row["digest"],
        state=cast("State", row["state"]),
        reason=row["reason"],
        author_id=row["author_id"],
        created_at=from_micros(row["created_at"]),
        activated_at=None if activated is None else from_micros(activated),
        activated_by=row["activated_by"],
        stage=_stage(row),
    )


def _stage(row: sa.RowMapping | Mapping[str, Any]) -> Stage:
    """How far a revision has come."""
    if row["state"] != "draft":
        return cast("Stage", row["state"])
    if row["shadowed_at"] is not None:
        return "shadow"
    if row["tested_at"] is not None:
        return "tested"
    return "draft" if row["checked_at"] is None else "checked"


def _dataset_of(decision: Decision) -> str:
    document = canonical.loads_strict(decision.input_bytes)
    return str(document["dataset"]["id"])


def _read_decision(row: sa.RowMapping) -> dict[str, Any]:
    facts = dict(row)
    facts["verdict"] = canonical.loads_strict(facts["verdict"].encode())
    facts["input"] = canonical.loads_strict(facts["input"].encode())
    facts["created_at"] = from_micros(facts["created_at"])
    return facts
