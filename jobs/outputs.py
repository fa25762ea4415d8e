"""What a finished job may hand out, and when: the owner's obligations and the request together.

A number about a model is an output of it as much as its weights are, so every door that shows one
asks here. Whatever the request did not ask for, the policy did not judge, so it stays inside. A
delay is counted by the database's clock alone, from the moment the job ended to the moment somebody
asks: a machine whose clock is wrong lets nothing out early. This module must never open a release.
"""

from __future__ import annotations

import json
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from jobs.tables import Job
from kit.clock import from_micros
from kit.database_time import database_micros
from policies.verdict import OUTPUTS

# A model's figures are shown to whoever may have the model, or was promised figures.
_TELL_ABOUT_THE_MODEL = frozenset({"weights", "dp_metrics"})
_MICROS_AN_HOUR = 3_600_000_000


def allowed(job: Job) -> frozenset[str]:
    """Outputs that were asked for and that the owner's latest word does not withhold."""
    asked = frozenset(json.loads(job.request).get("outputs", ["weights"]))
    return asked & _left_by_the_owner(job)


def receipt_allowed(job: Job) -> bool:
    """Whether the researcher may have the receipt; she need not have asked for it."""
    return "receipt" in _left_by_the_owner(job)


def hold_back(session: Session, job: Job) -> None:
    """Fix the moment from which outputs of a job that just ended leave, by the database's clock."""
    hours = _delay_hours(job)
    if hours:
        job.release_at = _database_now(session) + hours * _MICROS_AN_HOUR
        session.flush()


def due(job: Job) -> datetime | None:
    """The moment from which outputs leave, where it was fixed."""
    return None if job.release_at is None else from_micros(job.release_at)


def released(session: Session, job: Job) -> bool:
    """Whether the job is over and the owner's delay has passed."""
    if job.finished_at is None:
        return False
    if not _delay_hours(job):
        return True
    return job.release_at is not None and _database_now(session) >= job.release_at


def metrics_shown(session: Session, job: Job) -> bool:
    """Whether figures about the model may be told now."""
    if job.finished_at is None:  # nothing was released of a job that is not over
        return False
    return bool(allowed(job) & _TELL_ABOUT_THE_MODEL) and released(session, job)


def _left_by_the_owner(job: Job) -> frozenset[str]:
    demanded = json.loads(job.obligations).get("outputs")
    return OUTPUTS if demanded is None else frozenset(demanded)


def _delay_hours(job: Job) -> int:
    hours: int = json.loads(job.obligations).get("release_delay_hours", 0)
    return hours


def _database_now(session: Session) -> int:
    return session.execute(sa.select(database_micros())).scalar_one()
