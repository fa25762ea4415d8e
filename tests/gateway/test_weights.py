"""First weights over HTTP: taken once, shown to nobody else, nothing unbounded."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gateway.settings import GatewaySettings
from jobs.services import Services
from kit import tensors
from privacy_gateway import login
from tests.gateway.conftest import Gateway, running

FILE = {"Content-Type": "application/octet-stream"}
ARRAYS = {"weight_0000": np.ones((8, 2), np.float32), "weight_0001": np.zeros(2, np.float32)}


def _upload(gateway: Gateway, data: bytes, who: str = "researcher") -> dict[str, Any]:
    answer: dict[str, Any] = gateway.ok(who, "POST", "/v1/weights", content=data, headers=FILE)
    return answer


def test_the_same_numbers_are_the_same_upload_in_either_format(gateway: Gateway) -> None:
    stored = tensors.dump(ARRAYS)
    first, second = (
        _upload(gateway, tensors.in_form(stored, form)) for form in ("npz", "safetensors")
    )

    assert first == second
    assert first["id"] == f"wts_{tensors.digest(stored)}"
    assert (first["shapes"], first["parameters"]) == ([[8, 2], [2]], 18)
    listed = gateway.ok("researcher", "GET", "/v1/weights")
    assert [item["id"] for item in listed["items"]] == [first["id"]]
    assert gateway.ok("researcher", "GET", f"/v1/weights/{first['id']}") == first


def test_an_upload_can_be_removed_and_belongs_to_one_researcher(gateway: Gateway) -> None:
    path = f"/v1/weights/{_upload(gateway, tensors.dump(ARRAYS))['id']}"
    gateway.add("grace", "researcher")

    assert gateway.refused("grace", "GET", path)["code"] == "not_found"
    assert gateway.refused("grace", "DELETE", path)["code"] == "not_found"
    assert gateway.refused("owner", "GET", path)["code"] == "forbidden"
    gateway.ok("researcher", "DELETE", path)
    assert gateway.refused("researcher", "GET", path)["code"] == "not_found"


def test_other_formats_and_numbers_are_refused_by_name(gateway: Gateway) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=np.array([np.inf]))
    for data, code in ((b"\x89HDF", "unsupported"), (buffer.getvalue(), "invalid_request")):
        options: dict[str, Any] = {"content": data, "headers": FILE}
        answer = gateway.refused("researcher", "POST", "/v1/weights", **options)
        assert (answer["status"], answer["code"]) == (422, code)
    plain = gateway.refused("researcher", "POST", "/v1/weights", content=b"{}")
    assert plain["errors"][0]["field"] == "content-type"


def test_sizes_are_capped_for_one_file_and_for_all_of_one_researcher(
    settings: GatewaySettings, services: Services
) -> None:
    stored = len(tensors.dump(ARRAYS)) + 100
    small = settings.model_copy(
        update={"maximum_model_parameters": 20, "maximum_stored_weights_bytes": stored}
    )
    with running(small, replace(services, settings=small)) as house:
        house.add("researcher", "researcher")
        _upload(house, tensors.dump(ARRAYS))
        more = tensors.in_form(tensors.dump({"weight_0000": np.ones(20, np.float32)}), "npz")
        large = tensors.dump({"weight_0000": np.ones(21, np.float32)})
        for data in (more, large, bytes((1 << 20) + 161)):
            options: dict[str, Any] = {"content": data, "headers": FILE}
            answer = house.refused("researcher", "POST", "/v1/weights", **options)
            assert (answer["status"], answer["code"]) == (413, "too_large")


def test_the_client_uploads_arrays_and_files(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "start.safetensors").write_bytes(tensors.dump(ARRAYS))
    with login(token=gateway.tokens["researcher"], url=gateway.url) as domain:
        from_arrays = domain.upload_weights(list(ARRAYS.values()))
        from_file = domain.upload_weights(tmp_path / "start.safetensors")
    assert from_arrays == from_file
    assert from_file.shapes == [[8, 2], [2]]
