"""What a finished job may hand out, and when: the owner's obligations and the request together.

A number about a model is an output of it as much as its weights are, so every door that shows one
asks here. Whatever the request did not ask for, the policy did not judge, so it stays inside. This
module must never open a release.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from jobs.tables import Job
from kit.clock import from_micros

# A model's figures are shown to whoever may have the model, or was promised figures.
_TELL_ABOUT_THE_MODEL = frozenset({"weights", "dp_metrics"})


def allowed(job: Job) -> frozenset[str]:
    """Outputs that were asked for and that the owner's latest word does not withhold."""
    asked = frozenset(json.loads(job.request).get("outputs", ["weights"]))
    demanded = json.loads(job.obligations).get("outputs")
    return asked if demanded is None else asked & frozenset(demanded)


def due(job: Job) -> datetime | None:
    """The moment from which outputs leave; None while the job is not over."""
    if job.finished_at is None:
        return None
    hours = json.loads(job.obligations).get("release_delay_hours", 0)
    return from_micros(job.finished_at) + timedelta(hours=hours)


def metrics_shown(job: Job, now: datetime | None) -> bool:
    """Whether figures about the model may be told at `now`; None waits for any delay."""
    moment = due(job)
    if moment is None or not allowed(job) & _TELL_ABOUT_THE_MODEL:
        return False
    if now is None:
        return not json.loads(job.obligations).get("release_delay_hours", 0)
    return now >= moment
