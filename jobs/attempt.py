"""One attempt to submit a job: what is fixed before the lock, and the rows it becomes.

The rows are made from one frozen attempt and one judgement, so job, decision and ledger entry
cannot tell different stories. This module must never read or write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

from jobs import approvals
from jobs.judgement import Judgement
from jobs.principal import Principal
from jobs.tables import Job
from kit.clock import micros
from policies.verdict import Obligations
from privacy_gateway import canonical
from privacy_gateway.schemas import JobRequest, JobView

_DEFAULTS = {
    name: field.default for name, field in Job.model_fields.items() if not field.is_required()
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request with its hash, its key, the id its job would have, and its judgement so far."""

    principal: Principal
    request: JobRequest
    request_text: str
    request_hash: str
    key: str | None
    job_id: str
    first: Judgement
    sweep: str | None = None

    @property
    def mine(self) -> tuple[str, str | None]:
        """Keys belong to one researcher."""
        return self.principal.id, self.key

    @property
    def population_id(self) -> str:
        """Whose budget is asked for."""
        return self.first.situation.balance.population_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """An admitted job; `replayed` when the same key and body had made it before."""

    job: JobView
    replayed: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal that is recorded but not yet told."""

    judgement: Judgement
    decision_id: str


Settled = Outcome | Denied


def job_row(
    attempt: Attempt, judged: Judgement, decision: dict[str, Any], ordinal: int, now: datetime
) -> dict[str, Any]:
    """The columns of a job that was just submitted; `decision` is the row it is recorded by."""
    principal, request, facts = attempt.principal, attempt.request, judged.situation
    verdict, proposal = judged.decision.verdict, judged.proposal
    approve_before = approvals.approve_before(verdict.approvals, now)
    return _DEFAULTS | {
        "id": attempt.job_id,
        "population_id": facts.balance.population_id,
        "dataset_id": facts.dataset.id,
        "dataset_version": facts.dataset.version,
        "owner_id": facts.dataset.owner_id,
        "researcher_id": principal.id,
        "researcher_email": principal.email,
        "researcher_role": principal.role,
        "researcher_organisation": principal.organisation,
        "ordinal": ordinal,
        "status": "submitted",
        "kind": request.kind,
        "purpose": request.purpose,
        "request": attempt.request_text,
        "request_digest": attempt.request_hash,
        "population_clients": facts.balance.clients,
        "clients_per_round": request.clients_per_round,
        "noise_multiplier": request.noise_multiplier,
        "mechanism_digest": proposal.price.mechanism_digest,
        "rounds": request.rounds,
        "epsilon_nano": proposal.epsilon_nano,
        "delta": facts.balance.terms.delta,
        "policy_revision_id": facts.revision.id,
        "policy_revision": facts.revision.number,
        "decision_id": decision["id"],
        "decision_digest": decision["digest"],
        "obligations": _obligations_text(verdict.obligations),
        "approvals": approvals.demands_text(verdict.approvals),
        "approve_before": None if approve_before is None else micros(approve_before),
        "created_at": micros(now),
        "updated_at": micros(now),
    }


@lru_cache(maxsize=1024)
def _obligations_text(obligations: Obligations) -> str:
    return canonical.dumps(obligations.as_dict()).decode()


def job_of(row: dict[str, Any]) -> Job:
    """A new job's row, read like one; it belongs to no session."""
    return cast("Job", SimpleNamespace(**row))


def facts_of(attempt: Attempt, judged: Judgement, decision: dict[str, Any]) -> dict[str, Any]:
    """What an auditor needs beside the numbers; integers and strings only.

    `decision` is the row it is recorded by.
    """
    dataset, revision = judged.situation.dataset, judged.situation.revision
    return {
        "actor": attempt.principal.id,
        "purpose": attempt.request.purpose,
        "dataset": dataset.id,
        "dataset_version": dataset.version,
        "dataset_digest": dataset.digest,
        "request_digest": attempt.request_hash,
        "policy_revision": revision.number,
        "policy_digest": revision.digest,
        "decision_id": decision["id"],
        "decision_digest": decision["digest"],
        "policy_engine": f"{decision['engine']} {decision['engine_version']}",
        **({} if attempt.sweep is None else {"sweep": attempt.sweep}),
    }
