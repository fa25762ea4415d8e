"""A released model over HTTP: two forms of the same arrays, each with its own hash."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import numpy as np
import pytest

from jobs import blocks, releases, rounds, settlement
from kit import tensors
from tests.gateway.clinic import opened
from tests.gateway.conftest import Gateway

MODEL = {"weight_0000": np.ones((4, 3), np.float32), "weight_0001": np.zeros(3, np.float32)}


@pytest.fixture
def job(gateway: Gateway) -> str:
    """A job that published one round and ended."""
    made = gateway.ok("researcher", "POST", "/v1/jobs", json=opened(gateway).job())["id"]
    services = gateway.services
    now = services.clock()
    with services.database.unit_of_work() as session:
        held = rounds.claim(session, made, worker="w", lease_seconds=60, now=now)
    assert held is not None
    blocks.next_block(services, held)
    data = tensors.dump(MODEL)
    with services.database.unit_of_work() as session:
        releases.publish(
            session, held, first=1, round_number=1, weights=data, server_state=None,
            digest=tensors.digest(data), now=now,
        )  # fmt: skip
        locked = rounds.guard(session, held)
        settlement.end(session, locked, "completed", reason="for a test", now=now)
    return str(made)


def test_each_form_of_a_model_has_its_own_hash(gateway: Gateway, job: str) -> None:
    path = f"/v1/jobs/{job}/result"
    with gateway.client("researcher") as client:
        answers = {
            form: client.get(path, params={"format": form}) for form in ("npz", "safetensors")
        }
    tags = set()
    for form, answer in answers.items():
        assert answer.status_code == 200
        assert tensors.form_of(answer.content) == form
        for name, array in tensors.load(answer.content).items():
            np.testing.assert_array_equal(array, MODEL[name])
        told = b64encode(hashlib.sha256(answer.content).digest()).decode()
        assert answer.headers["repr-digest"] == f"sha-256=:{told}:"
        tags.add(answer.headers["etag"])
    assert len(tags) == 2
    receipt = gateway.ok("researcher", "GET", f"/v1/jobs/{job}/receipt")
    assert answers["safetensors"].headers["etag"] == f'"{receipt["model"]["sha256"]}"'
    assert receipt["model"]["form"] == "safetensors"
