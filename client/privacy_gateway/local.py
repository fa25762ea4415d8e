"""The announcement's call without a gateway: to try a training on made-up or on one's own records.

The rounds are the worker's, from the server's distribution, which must be installed on this
machine; this library alone has no engine. Nothing is asked, charged or sent, so nothing here may be
given records of people who trust a gateway with them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from privacy_gateway import weights
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.tff import (
    DEFAULT_ALGORITHM,
    DEFAULT_PURPOSE,
    architecture_of,
    check_clients,
    check_keys,
    compiled_loss,
    made_by,
)

ENGINE = "worker.offline"
REQUIRED = ("rounds", "noise_multiplier", "clients_per_round")
# The other keys of the announcement's call, so that one mapping serves both: ids name what is
# given as data here, and are not looked at.
IDS = ("train_data_id", "label_data_id")
OPTIONAL = ("algorithm", "loss", "metrics", "sampling", "purpose")


def train_model(
    model_fn: Callable[[], Any],
    params: Mapping[str, Any],
    data: Any,
    *,
    test: Any = None,
    delta: float | None = None,
    progress: bool = True,
) -> tuple[Any, dict[str, float]]:
    """Train a Keras model here, by the same rounds and with the same noise as at a gateway.

    Args:
        model_fn: makes a Keras model.
        params: `rounds`, `noise_multiplier`, `clients_per_round`; perhaps `no_clients`, which must
            be the number of people in the data, and any of `OPTIONAL`, members of the job body.
        data: `dataset.mock()`, or a mapping of arrays: `features`, `label`, and `client`, which
            says of each record whose it is.
        test: the same without `client`, to measure on; the data themselves when left out.
        delta: δ of the price that is told; the least of 1e-5 and 1/(10 N) when left out.
        progress: tell rounds, and in the end the price, on standard error.

    Returns:
        The model with the trained weights, and its metrics, in the clear.

    Raises:
        Refused: `unsupported` where the engine is not installed; else as a gateway would.
    """
    allowed = (*OPTIONAL, "no_clients", *IDS)
    check_keys(params, REQUIRED, allowed)
    engine = _engine()
    columns = _columns(data, ("features", "label", "client"))
    if "no_clients" in params:
        check_clients(params["no_clients"], len(set(columns["client"].tolist())))
    model = made_by(model_fn)
    outcome = engine.train(
        _body(model, params),
        columns,
        test=None if test is None else _columns(test, ("features", "label")),
        delta=delta,
        told=_counter(params["rounds"]) if progress else lambda _: None,
    )
    if progress:
        price = f"ε = {outcome.epsilon:.4g} at δ = {outcome.delta:g}"
        print(f"\nAt a gateway, on so many people, this costs {price}.", file=sys.stderr)
    arrays = {f"weight_{place:04d}": array for place, array in enumerate(outcome.weights)}
    return weights.fill(model, arrays), outcome.metrics


def _engine() -> Any:
    """The worker's rounds, where they are installed.

    Raises:
        Refused: `unsupported`, saying what to install.
    """
    try:
        return import_module(ENGINE)
    except ModuleNotFoundError as error:
        raise Refused(
            "unsupported",
            "training without a gateway needs the engine on this machine: "
            "pip install 'privacy-gateway-server[worker]'",
        ) from error


def _body(model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """The job body, less the data set."""
    body: dict[str, Any] = {
        "purpose": DEFAULT_PURPOSE,
        "algorithm": DEFAULT_ALGORITHM,
        "model": {"architecture": architecture_of(model)},
    }
    loss = compiled_loss(model)
    if loss is not None:
        body["loss"] = loss
    return body | {name: params[name] for name in (*REQUIRED, *OPTIONAL) if name in params}


def _columns(data: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Arrays by name, from a mapping or from made-up records."""
    import numpy as np

    columns = {}
    for name in names:
        found = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
        if found is None:
            raise invalid(f"data.{name}", "is missing")
        columns[name] = np.asarray(found)
    return columns


def _counter(rounds: int) -> Callable[[int], None]:
    return lambda number: print(f"\rround {number} of {rounds}", end="", file=sys.stderr)
