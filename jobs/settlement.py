"""How a job ends: the rest of its reservation goes back, and a receipt says what was guaranteed.

Every way into a final state goes through `end`, so a job that is over holds no reservation and has
its receipt. The uncharged rest is voided only when the reason for ending is public or was released
before; a process that saw raw data and failed must not shorten what is paid, or the size of the
debit would tell something about a record; nor must a person who saw it fail. Results are handed
out by `result` alone, which keeps the owner's obligations. Nothing here may read a client's data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import ledger
from accounting.tables import ENTRY
from jobs import events, outputs, receipts, rounds, states
from jobs.errors import FAILURES, SAW_DATA, FailureCode
from jobs.principal import Principal
from jobs.tables import Job, JobRelease, Receipt
from jobs.views import find
from kit import tensors
from kit.clock import micros, rfc3339
from policies import revisions
from privacy_gateway import canonical
from privacy_gateway.errors import Refused

_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]
_RECEIPT = Receipt.__table__  # type: ignore[attr-defined]
_MEDIA_TYPES: Final[dict[tensors.Form, str]] = {
    "npz": "application/x-npz",
    "safetensors": "application/octet-stream",
}
_LAST_CHARGE = (
    sa.select(ENTRY.c.leaf)
    .where(ENTRY.c.job_id == sa.bindparam("job"), ENTRY.c.kind == "charge")
    .order_by(ENTRY.c.seq.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Result:
    """A released model as a file: `data` is NPZ without pickles, or safetensors.

    Arrays are named `weight_0000`, `weight_0001`, … in the order of Keras `model.weights`.
    `digest` is the SHA-256 of `data`; of the form it is stored in, the model hash of the receipt.
    """

    data: bytes
    media_type: str
    filename: str
    digest: str


def end(
    session: Session,
    job: Job,
    status: str,
    *,
    reason: str,
    now: datetime,
    failure: FailureCode | None = None,
    detail: str | None = None,
) -> None:
    """Move a locked job to a final state, settle its reservation, write its receipt.

    Args:
        session: the transaction.
        job: the row, locked.
        status: the final state.
        reason: one public sentence for ledger and event.
        now: the time.
        failure: why it failed, from the enumeration; the only thing a researcher is told.
        detail: for the owner's eyes; never shown to a researcher.

    Raises:
        Refused: `conflict` when the diagram has no such step.
    """
    why = _not_public(session, job, status, failure)
    if why is not None and not _forfeit(session, job, why, now):
        # Nothing may be charged to a frozen population, and a freeze is a public reason to end.
        status, failure = "frozen", None
    ledger.settle(session, job_id=job.id, reason=reason, facts={"status": status}, now=now)
    job.failure = failure
    job.failure_detail = detail
    body: dict[str, Any] = {
        "reason": reason,
        "rounds_charged": job.rounds_charged,
        "rounds_published": job.rounds_published,
    }
    if failure is not None:
        body |= {"failure": failure, "message": FAILURES[failure]}
    states.move(session, job, status, now=now, body=body)
    outputs.hold_back(session, job)
    _write_receipt(session, job, reason, now)


def receipt(session: Session, principal: Principal, job_id: str) -> dict[str, Any]:
    """The receipt of a job the caller may see, as stored, and beside it `log`: the present proof.

    It is an output like the model where data was opened: the owner's obligations hold for the
    researcher, not for those who watch over the budget.

    Raises:
        Refused: `not_found`; `not_ready` while the job is not over or the owner's release delay has
            not passed; `forbidden` when receipts are no output of it.
    """
    job = find(session, principal, job_id)
    body = session.execute(
        sa.select(_RECEIPT.c.body).where(_RECEIPT.c.job_id == job.id)
    ).scalar_one_or_none()
    if body is None:
        raise Refused("not_ready", f"{job_id} is {job.status}; its receipt is written at its end")
    if job.rounds_charged and principal.role == "researcher":
        if not outputs.receipt_allowed(job):
            raise Refused("forbidden", f"the owner gives out no receipt of {job.id}")
        _refuse_early(session, job)
    stored: dict[str, Any] = json.loads(body)
    return stored | {"log": receipts.log_proof(session, stored)}


def result(
    session: Session, principal: Principal, job_id: str, *, form: tensors.Form = "npz"
) -> Result:
    """The last published model of a job that is over; free for ever, it is post-processing.

    Raises:
        Refused: `not_found`; `not_ready` while the job runs, before the owner's release delay has
            passed, or when no round was published; `forbidden` when weights are no output of it.
    """
    job = find(session, principal, job_id)
    _refuse_withheld(session, job)
    row = session.execute(
        sa.select(_RELEASE.c.weights, _RELEASE.c.digest)
        .where(_RELEASE.c.job_id == job.id, _RELEASE.c.weights.is_not(None))
        .order_by(_RELEASE.c.round.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        raise Refused("not_ready", f"{job_id} published no round")
    data = tensors.in_form(row.weights, form)
    return Result(data, _MEDIA_TYPES[form], f"{job_id}.{form}", tensors.digest(data))


def _refuse_withheld(session: Session, job: Job) -> None:
    """The owner's obligations on outputs, kept at the only door they leave through."""
    if not states.is_final(job.status):
        raise Refused("not_ready", f"{job.id} is {job.status}", status=job.status)
    if "weights" not in outputs.allowed(job):
        raise Refused("forbidden", f"weights are no output of {job.id}")
    _refuse_early(session, job)


def _refuse_early(session: Session, job: Job) -> None:
    """Outputs stay inside until the owner's delay has passed."""
    if not outputs.released(session, job):
        due = outputs.due(job)
        when = "later" if due is None else rfc3339(due)
        raise Refused("not_ready", f"the owner releases {job.id} at {when}", due=when)


def _not_public(session: Session, job: Job, status: str, failure: FailureCode | None) -> str | None:
    """Why what is left must be charged instead of given back; None where the end is public.

    A person who ends a job after she saw an attempt of it fail decides by what may be a fact about
    people's data: ending it then costs what its failing for good would have cost.
    """
    if not job.rounds_charged:
        return None
    if failure in SAW_DATA:
        return failure
    if _steerable(session, job, status) and events.attempt_failed(session, job.id):
        return f"{status} after a failed attempt"
    return None


def _steerable(session: Session, job: Job, status: str) -> bool:
    """Whether the end may have been brought about by whoever watches the job.

    By a cancel; or by what else she asks for, where the very policy that let the last block pass
    now stops the job. Another policy is the owner's word.
    """
    if status != "stopped_by_policy":
        return status == "cancelled"
    active = revisions.active(session, job.dataset_id)
    leaf = session.execute(_LAST_CHARGE, {"job": job.id}).scalar_one()
    passed: int = json.loads(leaf)["facts"].get("policy_revision", 0)
    return active is not None and active.number == passed


def _forfeit(session: Session, job: Job, why: str, now: datetime) -> bool:
    """Charge what is left of the reservation under a fence nobody else holds; False if frozen."""
    if ledger.lock(session, [job.population_id])[job.population_id].frozen:
        return False
    job.fence += 1
    charged = ledger.charge(
        session,
        job_id=job.id,
        round_first=job.rounds_published + 1,
        rounds=job.rounds,
        attempt=job.fence,
        fence=job.fence,
        facts={"reason": why},
        now=now,
    )
    job.rounds_charged += rounds.rounds_paid(job, charged)
    session.flush()
    return True


def _write_receipt(session: Session, job: Job, reason: str, now: datetime) -> None:
    body = receipts.build(session, job, reason=reason, now=now)
    text = canonical.dumps(body, floats=True)
    session.execute(
        _RECEIPT.insert().values(
            job_id=job.id,
            body=text.decode(),
            digest=canonical.digest_of(text),
            created_at=micros(now),
        )
    )
