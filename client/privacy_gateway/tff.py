"""The PySyTFF announcement's call, kept to the letter, through a gateway that counts privacy.

`train_model(model_fn, params, domain, timeout)` takes the six keys of the announcement. The model
travels as an architecture, never as code: `model_fn` runs on this machine only. The call must
never guess a privacy parameter; what is not said takes the public default of the job body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from privacy_gateway.errors import FieldError, Refused, invalid
from privacy_gateway.jobs import Job, JobNotCompleted
from privacy_gateway.schemas import JobRequest

if TYPE_CHECKING:
    from privacy_gateway.client import Domain

REQUIRED = (
    "rounds",
    "no_clients",
    "noise_multiplier",
    "clients_per_round",
    "train_data_id",
    "label_data_id",
)
_ALWAYS_SET = frozenset({"dataset", "model", "rounds", "noise_multiplier", "clients_per_round"})
OPTIONAL = tuple(name for name in JobRequest.model_fields if name not in _ALWAYS_SET)
DEFAULT_PURPOSE = "research"
DEFAULT_ALGORITHM = {"name": "dp_fedavg"}


def train_model(
    model_fn: Callable[[], Any],
    params: Mapping[str, Any],
    domain: Domain,
    timeout: float | None = None,
    *,
    progress: bool = True,
) -> tuple[Any, dict[str, float]]:
    """Train a Keras model on data that stays with its owner, under differential privacy.

    Args:
        model_fn: makes a Keras model; called once, here. Only its architecture is sent.
        params: the announcement's keys `rounds`, `no_clients`, `noise_multiplier`,
            `clients_per_round`, `train_data_id`, `label_data_id` (ids, or assets of
            `domain.datasets`), and any of `OPTIONAL`, the other members of the job body. Without
            `loss`, the loss the model was compiled with is used.
        domain: from `privacy_gateway.login`.
        timeout: most seconds to wait for the result; the job outlives it.
        progress: show a bar.

    Returns:
        The model of `model_fn` with the trained weights, and its metrics on public test data.

    Raises:
        Refused: by the gateway, with `.rules`, `.price`, `.left`, `.counter_offer`; or here,
            `invalid_request`, when a key is unknown or missing, when the two ids are not features
            and label of one data set, or when `no_clients` is not the population's public size.
        JobNotCompleted: the job ended otherwise, or waiting was stopped by Ctrl-C.
        TimeoutError: the job still goes on.
    """
    model, body = job_of(model_fn, params, domain)
    job = domain.submit(body, model=model)
    done = finished(job.wait(timeout, progress=progress))
    return done.result(), done.metrics


def job_of(
    model_fn: Callable[[], Any], params: Mapping[str, Any], domain: Domain
) -> tuple[Any, dict[str, Any]]:
    """The model and the job body that `train_model` would submit; for quotes.

    Raises:
        Refused: as `train_model` does before anything is sent.
    """
    check_keys(params)
    datasets = domain.datasets
    dataset, features = datasets.of_asset(params["train_data_id"], "train_data_id")
    other, label = datasets.of_asset(params["label_data_id"], "label_data_id")
    if features != dataset.features:
        raise invalid("train_data_id", f"is {features.name!r}, not the data set's features")
    if other.id != dataset.id or label != dataset.label:
        raise invalid("label_data_id", f"is {label.name!r}, not the label of the same data set")
    check_clients(params["no_clients"], dataset.clients)
    model = made_by(model_fn)
    body: dict[str, Any] = {
        "dataset": dataset.id,
        "purpose": DEFAULT_PURPOSE,
        "algorithm": DEFAULT_ALGORITHM,
        "rounds": params["rounds"],
        "clients_per_round": params["clients_per_round"],
        "noise_multiplier": params["noise_multiplier"],
        "model": {"architecture": architecture_of(model)},
    }
    compiled = compiled_loss(model)
    if compiled is not None:
        body["loss"] = compiled
    return model, body | {name: params[name] for name in OPTIONAL if name in params}


def made_by(model_fn: Callable[[], Any]) -> Any:
    """The Keras model that `model_fn` makes.

    Raises:
        Refused: `invalid_request` on `model_fn`, such as for a model in the place of a function.
    """
    is_model = hasattr(model_fn, "get_config") and not isinstance(model_fn, type)
    if not callable(model_fn) or is_model:
        raise invalid("model_fn", "must be a function without arguments that returns a model")
    model = model_fn()
    if not hasattr(model, "get_config"):
        raise invalid("model_fn", f"must return a Keras model, not {type(model).__name__}")
    return model


def architecture_of(model: Any) -> dict[str, Any]:
    """A Keras model as architecture JSON; every layer that cannot be expressed is named.

    Raises:
        Refused: `model_refused`.
    """
    from privacy_gateway.keras_converter import spec_of_keras

    return spec_of_keras(model).as_dict()


def check_keys(
    params: Mapping[str, Any],
    required: tuple[str, ...] = REQUIRED,
    optional: tuple[str, ...] = OPTIONAL,
) -> None:
    """All keys that are needed, and nothing that would not be understood.

    Raises:
        Refused: `invalid_request`, naming each.
    """
    missing = [FieldError(name, "is missing") for name in required if name not in params]
    unknown = [
        FieldError(str(name), f"is not a key of train_model; optional are {', '.join(optional)}")
        for name in params
        if name not in required and name not in optional
    ]
    faults = missing + unknown
    if faults:
        detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
        raise Refused("invalid_request", detail, errors=faults)


def check_clients(asked: Any, declared: int) -> None:
    """A wrong idea of how many people there are would be a wrong idea of the price.

    Raises:
        Refused: `invalid_request` on `no_clients`, with both numbers.
    """
    if type(asked) is int and asked == declared:
        return
    message = f"is {asked!r}, but the population has {declared} clients"
    raise Refused(
        "invalid_request",
        f"no_clients {message}",
        errors=[FieldError("no_clients", message, asked if type(asked) is int else None, declared)],
        no_clients=asked,
        population_clients=declared,
    )


def compiled_loss(model: Any) -> str | None:
    """Name of the loss a model was compiled with; the gateway says whether it knows it."""
    loss = getattr(model, "loss", None)
    if loss is None or isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__))


def finished(job: Job) -> Job:
    """The job, if it ran its whole length.

    Raises:
        JobNotCompleted: it ended otherwise, or waiting was stopped by Ctrl-C.
    """
    if job.status != "completed":
        raise JobNotCompleted(job)
    return job
