"""Measuring a model on a data set, as one call: free on public test records, charged on people.

What a job says is all that is sent; nothing is measured here. Where it costs privacy, cohort and
noise are the caller's to say: this module must never choose a privacy parameter that is charged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from privacy_gateway.datasets import Dataset
from privacy_gateway.errors import invalid
from privacy_gateway.jobs import Job
from privacy_gateway.tff import DEFAULT_PURPOSE, architecture_of, compiled_loss

if TYPE_CHECKING:
    from privacy_gateway.client import Domain

Split = Literal["public_test", "clients"]
OUTPUTS = ("dp_metrics", "receipt")
# The members of a training that say what model it is and how it is measured.
_FROM_THE_JOB = ("model", "loss", "metrics", "purpose", "project")


def job_of(
    domain: Domain,
    subject: Job | str | Any,
    dataset: Dataset | str | None = None,
    *,
    split: Split = "public_test",
    **members: Any,
) -> dict[str, Any]:
    """The job body that `Domain.evaluate` submits; for quotes.

    Args:
        domain: the gateway.
        subject: a job (or its id) whose released model is measured; or a Keras model, whose
            architecture and weights are uploaded, on public test records alone.
        dataset: a data set or its id; the job's own when left out.
        split: `public_test`, free; or `clients`, charged.
        members: other members of the job body. On `clients`, `clients_per_round` and
            `noise_multiplier` are needed.

    Raises:
        Refused: `invalid_request` where something is missing or goes not together.
    """
    if isinstance(subject, str):
        subject = domain.job(subject)
    found = _named(dataset) or (subject.view.dataset if isinstance(subject, Job) else None)
    if found is None:
        raise invalid("dataset", "is needed to measure a model that comes from no job")
    body: dict[str, Any] = {
        "dataset": found,
        "kind": "evaluate",
        "purpose": DEFAULT_PURPOSE,
        "algorithm": {"name": "dp_fedavg"},
        "rounds": 1,
        "outputs": list(OUTPUTS),
        "split": split,
    }
    if isinstance(subject, Job):
        asked = subject.view.request
        body |= {name: asked[name] for name in _FROM_THE_JOB if asked.get(name) is not None}
        body["initial"] = {"job": subject.id}
    else:
        body |= _of_model(domain, subject, split)
    if split == "public_test":
        # Neither is used there; what is said is what the owner's rules on cohorts let pass.
        everybody = domain.dataset(found).clients
        body |= {"clients_per_round": everybody, "noise_multiplier": 1.0, "sampling": "none"}
    else:
        for name in ("clients_per_round", "noise_multiplier"):
            if name not in members:
                raise invalid(name, "is needed: a measurement on clients is charged")
    return body | members


def _named(dataset: Dataset | str | None) -> str | None:
    return dataset.id if isinstance(dataset, Dataset) else dataset


def _of_model(domain: Domain, model: Any, split: Split) -> dict[str, Any]:
    """Architecture, compiled loss and uploaded weights of a Keras model."""
    if split == "clients":
        raise invalid("split", "only a released model is measured on clients: name its job")
    body: dict[str, Any] = {"model": {"architecture": architecture_of(model)}}
    loss = compiled_loss(model)
    uploaded = {"initial": {"weights": domain.upload_weights(model).id}}
    return body | uploaded | ({} if loss is None else {"loss": loss})
