"""A real gateway (uvicorn, SQLite, embedded engine) with people, a data set and its policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

import privacy_gateway as pg
from privacy_gateway.cli import commands
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


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs one command line, with a configuration directory of its own."""
    monkeypatch.setenv("PRIVACY_GATEWAY_CONFIG", str(tmp_path / "config"))
    for name in ("PRIVACY_GATEWAY_URL", "PRIVACY_GATEWAY_TOKEN", "PRIVACY_GATEWAY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)

    def once(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["privacy-gateway", *map(str, arguments)])
        capsys.readouterr()
        # The gateway's own log lines go elsewhere; it shares this process in tests only.
        with capture_logs(), pytest.raises(SystemExit) as caught:
            commands.run()
        printed = capsys.readouterr()
        return Ran(int(caught.value.code or 0), printed.out, printed.err)

    return once


@pytest.fixture
def as_role(run: Run, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Logs a role in, as a person would."""

    def log_in(role: str) -> None:
        monkeypatch.setenv("PRIVACY_GATEWAY_PASSWORD", PASSWORD)
        done = run("login", "--email", f"{role}@example.org", "--url", gateway.url)
        assert done.code == 0, done.err

    return log_in
