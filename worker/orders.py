"""From a job to what the sandbox is told: public numbers, and those that were priced.

What was priced comes from the plan and never from the request a second time. It must never pass on
noise, a key, a name or a budget.
"""

from __future__ import annotations

import hashlib

from accounting.plan import INITIAL_CLIP_NORM, TrainingPlan
from jobs.tables_datasets import Dataset
from privacy_gateway.schemas import JobRequest
from worker.task import TrainingTask


def training_task(
    job_id: str,
    request: JobRequest,
    plan: TrainingPlan,
    dataset: Dataset,
    *,
    trainer: str | None = None,
) -> TrainingTask:
    """What the sandbox is told; numbers that were priced come from the plan."""
    algorithm = request.algorithm
    # Public, and the same for every attempt, so that a job resumed is the same job.
    seed = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4], "big") >> 1
    return TrainingTask.model_validate(
        {
            "model": request.model.architecture,
            "algorithm": algorithm.name,
            "event": "tree_sum" if plan.mechanism.kind == "tree_gaussian" else "gaussian_sum",
            "client_optimizer": algorithm.client_optimizer.model_dump(),
            "local_epochs": algorithm.local_epochs,
            "batch_size": algorithm.batch_size,
            "trainer": trainer,
            "clip_norm": plan.clip_norm or INITIAL_CLIP_NORM,
            "count_unclipped": plan.clip_norm is None,
            "release": "evaluation" if plan.release == "evaluation" else "update",
            "proximal_mu": algorithm.proximal_mu or 0.0,
            "loss": request.loss,
            "metrics": request.metrics,
            "examples_per_client": int(dataset.manifest.get("examples_per_client", 1000)),
            "initial_seed": seed,
        }
    )
