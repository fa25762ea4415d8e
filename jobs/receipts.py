"""The receipt of a job: what was guaranteed, in numbers for machines and a paragraph for people.

A receipt can be shown to anybody the researcher likes; it holds public and released facts only,
and names the ledger entries and the decision that an auditor can check it against. It must never
claim more than the accountant charged: ε is that of all charged rounds, repeated ones included.
"""

from __future__ import annotations

import json
from datetime import datetime
from decimal import ROUND_CEILING, Context
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import curve, log
from accounting.plan import TrainingPlan
from accounting.tables import ENTRY, Population
from jobs import starting_weights
from jobs.catalogue import has_public_test
from jobs.proposal import plan_for
from jobs.recheck import request_of
from jobs.tables import Job, JobEvent, JobRelease
from jobs.tables_datasets import Dataset
from kit import tensors
from kit.clock import rfc3339

_RELEASE = JobRelease.__table__  # type: ignore[attr-defined]
_EVENT = JobEvent.__table__  # type: ignore[attr-defined]

SCHEMA = "privacy-gateway/receipt/1"
ADJACENCY = "zero-out: one client's whole data replaced by no contribution"
UNPROTECTED = (
    "the request: architecture, algorithm, rounds, noise, purpose, time of submission",
    "the number of clients N of the population and the expected cohort size",
    "the state of the job, its rounds charged and published, and when",
    "metrics on the public test split, computed on the released model",
)


def build(session: Session, job: Job, *, reason: str, now: datetime) -> dict[str, Any]:
    """The body of the receipt of a job that just ended; JSON values only."""
    population = session.get_one(Population, job.population_id)
    dataset = session.get_one(Dataset, job.dataset_id)
    plan = plan_for(request_of(job), dataset, clients=job.population_clients)
    epsilon = _epsilon(job, plan)
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "job": job.id,
        "status": job.status,
        "reason": reason,
        "issued_at": rfc3339(now),
        "dataset": {
            "id": dataset.id,
            "version": dataset.version,
            "digest": dataset.digest,
            "public_test_examples": dataset.test_examples if has_public_test(dataset) else 0,
        },
        "guarantee": {
            "unit": population.privacy_unit,
            "adjacency": ADJACENCY,
            "population": population.id,
            "clients": job.population_clients,
            "epsilon": epsilon,
            "delta": float(job.delta),
        },
        "mechanism": plan.mechanism.canonical(),
        "mechanism_digest": job.mechanism_digest,
        "sampling": _sampling(plan),
        "clipping": _clipping(session, job, plan),
        "rounds": {
            "requested": job.rounds,
            "charged": job.rounds_charged,
            "published": job.rounds_published,
        },
        "accountant": curve.ENGINE,
        "ledger": _ledger(session, job),
        "policy": {
            "revision": job.policy_revision,
            "revision_id": job.policy_revision_id,
            "decision": job.decision_id,
            "decision_digest": job.decision_digest,
        },
        "model": _model(session, job),
        "unprotected": list(UNPROTECTED),
    }
    body["statement"] = _statement(job, population, plan, epsilon)
    return body


def log_proof(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    """Checkpoint and proof that the job's last entry is in the log, for the body of a receipt.

    The entry seals all before it in its population's chain, so one proof stands for the job. Until
    a checkpoint covers it, a second or two after the end, `status` is `pending`.
    """
    newest = log.latest(session)
    entry = log.find(session, body["ledger"]["population"], body["ledger"]["last_seq"])
    if newest is None or entry is None or entry.place >= newest.size:
        return {"status": "pending"}
    proof = log.inclusion(session, entry, newest.size)
    return {
        "status": "integrated",
        "seq": entry.seq,
        "hash": entry.hash,
        "index": entry.place,
        "size": proof.size,
        "root": proof.root.hex(),
        "path": [part.hex() for part in proof.path],
        "checkpoint": newest.note,
    }


def _epsilon(job: Job, plan: TrainingPlan) -> float:
    """Stand-alone ε of what was charged; 0 when nothing was."""
    if job.rounds_charged == 0:
        return 0.0
    units = plan.charge_units if plan.mechanism.whole else job.rounds_charged
    return curve.standalone_epsilon(plan.mechanism, units, float(job.delta))


def _sampling(plan: TrainingPlan) -> dict[str, Any]:
    """Who took part in a round: nobody, where records were public."""
    if plan.public:
        return {"kind": "none", "clients_per_round": 0, "rate": 0.0}
    return {
        "kind": plan.sampling,
        "clients_per_round": plan.clients_per_round,
        "rate": plan.clients_per_round / plan.population_clients,
    }


def _clipping(session: Session, job: Job, plan: TrainingPlan) -> dict[str, Any]:
    """The clip norm, or the constants it followed from and where it got to."""
    if plan.public:
        return {"kind": "none"}
    if plan.clip_norm is not None:
        return {"kind": "fixed", "clip_norm": plan.clip_norm}
    parameters = plan.engine_parameters()
    return {
        "kind": "adaptive",
        "initial_clip_norm": parameters["initial_clip_norm"],
        "quantile": parameters["clip_quantile"],
        "learning_rate": parameters["clip_learning_rate"],
        "clip_count_noise": parameters["clip_count_noise"],
        "update_noise_multiplier": parameters["noise_multiplier"],
        "last_clip_norm": _last_clip_norm(session, job),
    }


def _last_clip_norm(session: Session, job: Job) -> float | None:
    """C of the newest released round, as its event tells it."""
    body = session.execute(
        sa.select(_EVENT.c.body)
        .where(_EVENT.c.job_id == job.id, _EVENT.c.kind == "published")
        .order_by(_EVENT.c.seq.desc())
        .limit(1)
    ).scalar_one_or_none()
    norm = json.loads(body or "{}").get("clip_norm")
    return None if norm is None else float(norm)


def _ledger(session: Session, job: Job) -> dict[str, Any]:
    """First and last entry of the job in its population's chain."""
    mine = sa.select(ENTRY.c.seq, ENTRY.c.hash).where(ENTRY.c.job_id == job.id)
    first = session.execute(mine.order_by(ENTRY.c.seq).limit(1)).one()
    last = session.execute(mine.order_by(ENTRY.c.seq.desc()).limit(1)).one()
    return {
        "population": job.population_id,
        "first_seq": first.seq,
        "first_hash": first.hash,
        "last_seq": last.seq,
        "last_hash": last.hash,
    }


def _model(session: Session, job: Job) -> dict[str, Any] | None:
    """Hash of the newest released weights, or of what was measured on them."""
    newest = (
        sa.select(
            _RELEASE.c.round,
            _RELEASE.c.digest,
            sa.func.substr(_RELEASE.c.weights, 1, tensors.MARK_BYTES).label("mark"),
        )
        .where(_RELEASE.c.job_id == job.id)
        .order_by(_RELEASE.c.round.desc())
        .limit(1)
    )
    row = session.execute(newest).one_or_none()
    if row is None:
        return None
    request = request_of(job)
    if request.kind == "evaluate" and request.initial is not None:
        source = starting_weights.provenance(session, request.initial)
        told = {"evaluated_job": source["job"]} if "job" in source else {"evaluated": source}
        told |= {"metrics_sha256": row.digest, "split": request.split}
        return told | {"architecture": request.model.architecture.fingerprint}
    model: dict[str, Any] = {
        "round": row.round,
        "sha256": row.digest,
        "architecture": request.model.architecture.fingerprint,
    }
    if row.mark is not None:
        model["form"] = tensors.form_of(row.mark)
    if request.initial is not None:
        model["initial"] = starting_weights.provenance(session, request.initial)
    return model


def _rounded_up(epsilon: float) -> str:
    """Four significant digits, rounded up: a statement must not promise more than was charged."""
    four = Context(prec=4, rounding=ROUND_CEILING)
    return f"{four.create_decimal(repr(epsilon)).normalize():f}"


def _statement(job: Job, population: Population, plan: TrainingPlan, epsilon: float) -> str:
    """The paragraph for people."""
    if job.rounds_charged == 0:
        return "No round was run: no data was opened, nothing was released, nothing was charged."
    if plan.public:
        return (
            "One model was measured on test records that the owner of the data declared public."
            f" No {population.privacy_unit}'s data was opened and nothing was charged."
        )
    again = job.rounds_charged - job.rounds_published
    repeated = (
        f" {again} more were charged without being released, because they were repeated or stopped."
        if again
        else ""
    )
    return (
        f"{job.rounds_published} of {job.rounds} rounds went into what was released, each with"
        f" Gaussian noise of {plan.noise_multiplier:g} times the largest influence one"
        f" {population.privacy_unit} can have.{repeated} Whoever sees everything this job"
        f" released can tell whether any single {population.privacy_unit} among"
        f" {job.population_clients} took part only within ε = {_rounded_up(epsilon)} at"
        f" δ = {float(job.delta):g}. This job is one of several on the same"
        f" people; their total is bounded by the population's budget, kept in the ledger."
    )
