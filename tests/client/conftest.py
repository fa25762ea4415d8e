"""A real gateway (uvicorn, SQLite, embedded engine) with people, a data set and its policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import privacy_gateway as pg
from privacy_gateway.client import Domain
from privacy_gateway.datasets import Dataset
from tests.gateway.conftest import PASSWORD, Gateway, engine, gateway, migrated, services, settings
from tests.support.servers import REPOSITORY

__all__ = ["PASSWORD", "engine", "gateway", "migrated", "services", "settings"]

CLIENTS = 50
POLICY = REPOSITORY / "rego" / "examples" / "price_cap" / "price_cap.rego"
LINEAR = {
    "input": {"shape": [2, 2], "dtype": "float32"},
    "layers": [{"type": "Flatten"}, {"type": "Dense", "units": 3, "activation": "softmax"}],
}


@dataclass(frozen=True)
class House:
    """A gateway with data on offer, and the people who meet there."""

    gateway: Gateway
    owner: Domain
    researcher: Domain
    dataset: Dataset

    def job(self, **changes: Any) -> dict[str, Any]:
        """A request that policy and budget accept."""
        base = {
            "dataset": self.dataset.id,
            "purpose": "research",
            "algorithm": {"name": "dp_fedsgd"},
            "rounds": 2,
            "clients_per_round": 10,
            "noise_multiplier": 2.0,
            "model": {"architecture": LINEAR},
        }
        return base | changes


def write_npz(path: Path, clients: int = CLIENTS) -> Path:
    """Two examples of 2 × 2 bytes a client, three classes."""
    rows = 2 * clients
    np.savez(
        path,
        images=np.arange(rows * 4, dtype=np.uint8).reshape(rows, 2, 2),
        labels=np.arange(rows) % 3,
        people=np.repeat(np.arange(clients), 2),
    )
    return path


def manifest_of(population: str) -> dict[str, Any]:
    return {
        "name": "digits",
        "population": population,
        "client": "people",
        "features": ["images"],
        "label": "labels",
        "format": "npz",
        "classes": 3,
        "scale": 1 / 255,
    }


@pytest.fixture
def house(gateway: Gateway, tmp_path: Path) -> House:
    owner, researcher = (
        pg.login(url=gateway.url, token=gateway.tokens[role]) for role in ("owner", "researcher")
    )
    population = owner.owner.create_population("people", clients=CLIENTS, epsilon=8, delta=1e-5)
    file = write_npz(tmp_path / "digits.npz")
    dataset = owner.owner.register_dataset(manifest_of(population.id), file)
    tests = POLICY.with_name("price_cap_test.rego").read_text(encoding="utf-8")
    owner.owner.publish_policy(dataset.id, POLICY.read_text(encoding="utf-8"), tests=tests)
    return House(gateway, owner, researcher, dataset)
