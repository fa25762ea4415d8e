"""How many test records an owner keeps from everybody is a number of people's data: hers to see."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from tests.gateway.clinic import CLIENTS, FEATURES, manifest, open_population, publish
from tests.gateway.conftest import Gateway

KEPT = 5


def _file() -> bytes:
    """One record of each of 60 people, and some records more."""
    rows = CLIENTS + KEPT
    numbers = np.random.default_rng(7)
    file = io.BytesIO()
    np.savez(
        file,
        x=numbers.normal(size=(rows, FEATURES)).astype(np.float32),
        y=numbers.integers(0, 2, rows).astype(np.int32),
        client=np.arange(rows),
        held=np.arange(rows) >= CLIENTS,
    )
    return file.getvalue()


@pytest.mark.parametrize("public", [False, True], ids=["kept", "public"])
def test_only_public_test_records_are_counted_to_a_researcher(
    gateway: Gateway, public: bool
) -> None:
    described = manifest(open_population(gateway), test="held", test_public=public)
    made: dict[str, Any] = gateway.ok(
        "owner",
        "POST",
        "/v1/datasets",
        data={"manifest": json.dumps(described)},
        files={"file": ("x.npz", _file())},
    )
    publish(gateway, made["id"])
    for who in ("owner", "auditor", "admin", "researcher"):
        shown = gateway.ok(who, "GET", f"/v1/datasets/{made['id']}")
        (listed,) = gateway.ok(who, "GET", "/v1/datasets")["items"]
        assert shown == listed
        assert shown["test_public"] is public
        assert shown["test_examples"] == (KEPT if public or who != "researcher" else 0), who
