"""A clinic over HTTP: 60 people, a small NPZ file, the owner's policy; and requests about it."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.gateway.conftest import Gateway
from tests.support.market import TESTS, policy

CLIENTS = 60
FEATURES = 8


@dataclass(frozen=True)
class Clinic:
    """What was set up, by its ids."""

    house: Gateway
    population: str
    dataset: str

    def job(self, **changes: Any) -> dict[str, Any]:
        """A request that passes; dotted names change members deep inside."""
        body = copy.deepcopy(JOB) | {"dataset": self.dataset}
        for path, value in changes.items():
            *parents, last = path.split("__")
            target: Any = body
            for name in parents:
                target = target[name]
            target[last] = value
        return body

    def budget(self) -> dict[str, Any]:
        """The odometer, as the owner sees it."""
        found: dict[str, Any] = self.house.ok(
            "owner", "GET", f"/v1/populations/{self.population}/budget"
        )
        return found


JOB: dict[str, Any] = {
    "dataset": "",
    "kind": "train",
    "purpose": "research",
    "algorithm": {
        "name": "dp_fedavg",
        "client_optimizer": {"name": "sgd", "learning_rate": 0.1},
        "server_optimizer": {"name": "sgd", "learning_rate": 1.0},
        "local_epochs": 1,
        "batch_size": 10,
        "clip_norm": 1.0,
    },
    "rounds": 4,
    "clients_per_round": 20,
    "noise_multiplier": 2.0,
    "sampling": "poisson",
    "model": {
        "architecture": {
            "input": {"shape": [FEATURES]},
            "layers": [{"type": "Dense", "units": 2, "activation": "softmax"}],
        }
    },
    "loss": "sparse_categorical_crossentropy",
    "metrics": ["accuracy"],
    "outputs": ["weights", "receipt"],
}


def npz(*, clients: int = CLIENTS, records: int = 3, seed: int = 7) -> bytes:
    """A data file: `records` rows of each client."""
    numbers = np.random.default_rng(seed)
    rows = clients * records
    file = io.BytesIO()
    np.savez(
        file,
        x=numbers.normal(size=(rows, FEATURES)).astype(np.float32),
        y=numbers.integers(0, 2, rows).astype(np.int32),
        client=np.repeat(np.arange(clients), records),
    )
    return file.getvalue()


def manifest(population: str, **changes: Any) -> dict[str, Any]:
    """What the file holds."""
    return {
        "name": "visits",
        "population": population,
        "client": "client",
        "features": ["x"],
        "label": "y",
        "format": "npz",
        "classes": 2,
        "examples_per_client": 3,
    } | changes


def open_population(house: Gateway, who: str = "owner", **changes: Any) -> str:
    """A population of 60 patients with (8, 1e-4)."""
    body = {
        "name": "patients",
        "privacy_unit": "patient",
        "clients": CLIENTS,
        "epsilon": 8.0,
        "delta": 1e-4,
    } | changes
    return str(house.ok(who, "POST", "/v1/populations", json=body)["id"])


def upload(house: Gateway, described: Mapping[str, Any], who: str = "owner") -> dict[str, Any]:
    """Register the file over a multipart form."""
    answer: dict[str, Any] = house.ok(
        who,
        "POST",
        "/v1/datasets",
        data={"manifest": json.dumps(described)},
        files={"file": ("visits.npz", npz(), "application/octet-stream")},
    )
    return answer


def publish(house: Gateway, dataset: str, source: str | None = None, who: str = "owner") -> int:
    """Draft and activate a policy; answers its number."""
    path = f"/v1/datasets/{dataset}/policies"
    body = {"source": source or policy(), "tests": TESTS, "reason": "test"}
    number = int(house.ok(who, "POST", path, json=body)["number"])
    house.ok(who, "POST", f"{path}/{number}/activate")
    return number


def opened(house: Gateway, who: str = "owner") -> Clinic:
    """The whole clinic, open to researchers."""
    population = open_population(house, who)
    dataset = str(upload(house, manifest(population), who)["id"])
    publish(house, dataset, who=who)
    return Clinic(house, population, dataset)
