"""Data sets over HTTP: two ways in, metadata out, nothing of the machine or the data besides."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.settings import GatewaySettings
from jobs.services import Services
from tests.gateway.clinic import CLIENTS, FEATURES, manifest, npz, open_population, opened, upload
from tests.gateway.conftest import Gateway, running


def _form(described: Any, content: bytes, **extra: Any) -> dict[str, Any]:
    text = described if isinstance(described, str) else json.dumps(described)
    return {"data": {"manifest": text} | extra, "files": {"file": ("x.npz", content)}}


def test_an_upload_is_registered_and_shows_schema_only(gateway: Gateway) -> None:
    population = open_population(gateway)

    made = upload(gateway, manifest(population))

    assert made["clients"] == CLIENTS
    assert made["feature_shape"] == [FEATURES]
    assert made["version"] == 1
    assert [asset["name"] for asset in made["assets"]] == ["x", "y"]
    assert made["policy"] is None
    assert gateway.ok("owner", "GET", f"/v1/datasets/{made['id']}") == made
    assert gateway.ok("owner", "GET", "/v1/datasets")["items"] == [made]
    assert "path" not in json.dumps(made)
    assert "examples" not in made
    assert upload(gateway, manifest(population))["version"] == 2


def test_uploads_leave_nothing_behind(gateway: Gateway, settings: GatewaySettings) -> None:
    population = open_population(gateway)
    upload(gateway, manifest(population))
    gateway.refused("owner", "POST", "/v1/datasets", **_form(manifest(population), b"no file"))

    assert list((settings.state_dir / "uploads").iterdir()) == []


def test_a_file_in_an_opened_directory_is_registered_by_its_path(
    gateway: Gateway, tmp_path: Path
) -> None:
    population = open_population(gateway)
    file = tmp_path / "import" / "visits.npz"
    file.write_bytes(npz())

    body = {"manifest": manifest(population), "path": str(file)}
    made = gateway.ok("owner", "POST", "/v1/datasets", json=body)

    assert made["clients"] == CLIENTS


def test_a_path_outside_is_refused_alike_whether_something_is_there(
    gateway: Gateway, tmp_path: Path
) -> None:
    population = open_population(gateway)
    secret = tmp_path / "secret.npz"
    secret.write_bytes(npz())
    link = tmp_path / "import" / "link.npz"
    link.symlink_to(secret)
    paths = [
        str(secret),
        str(link),
        str(tmp_path / "import" / ".." / "secret.npz"),
        str(tmp_path / "import"),
        "/nothing/there.npz",
        "/etc/passwd",
        "secret.npz",
        "a\x00b",
        "/" + "x" * 4000,
    ]

    problems = [
        gateway.refused(
            "owner", "POST", "/v1/datasets", json={"manifest": manifest(population), "path": path}
        )
        for path in paths
    ]

    assert all(problem == problems[0] for problem in problems)
    assert problems[0]["errors"][0]["field"] == "path"
    assert str(tmp_path) not in json.dumps(problems)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label": "z"}, "manifest.label"),
        ({"features": ["z"]}, "manifest.features"),
        ({"features": []}, "manifest.features"),
        ({"client": "z"}, "manifest.client"),
        ({"format": "pickle"}, "manifest.format"),
        ({"classes": "2"}, "manifest.classes"),
        ({"path": "/x"}, "manifest.path"),
    ],
)
def test_a_wrong_manifest_is_refused_by_field(
    gateway: Gateway, change: dict[str, Any], field: str
) -> None:
    described = manifest(open_population(gateway), **change)

    problem = gateway.refused("owner", "POST", "/v1/datasets", **_form(described, npz()))

    assert problem["status"] == 422
    assert any(error["field"].startswith(field) for error in problem["errors"]), problem


def test_a_file_with_another_number_of_people_is_refused_with_both(gateway: Gateway) -> None:
    described = manifest(open_population(gateway))

    problem = gateway.refused("owner", "POST", "/v1/datasets", **_form(described, npz(clients=59)))

    assert problem["errors"][0]["field"] == "manifest.population"
    assert (problem["clients_found"], problem["clients_declared"]) == (59, CLIENTS)


def test_pickles_are_never_opened(gateway: Gateway) -> None:
    described = manifest(open_population(gateway))
    file = io.BytesIO()
    np.savez(file, x=np.array([{"a": 1}], dtype=object), y=np.zeros(1), client=np.zeros(1))

    problem = gateway.refused("owner", "POST", "/v1/datasets", **_form(described, file.getvalue()))

    assert problem["code"] == "invalid_request"


def test_forms_that_are_none(gateway: Gateway) -> None:
    described = manifest(open_population(gateway))
    post = ("owner", "POST", "/v1/datasets")
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}

    missing = gateway.refused(*post, files={"file": ("x", npz())})
    textual = gateway.refused(*post, files={"manifest": (None, json.dumps(described))})
    twice = gateway.refused(*post, **_form('{"name": "a", "name": "b"}', npz()))
    extra = gateway.refused(*post, **_form(described, npz(), more="fields"))
    broken = gateway.refused(*post, content=b"--x\r\nnonsense", headers=boundary)
    unbounded = gateway.refused(*post, content=b"", headers={"Content-Type": "multipart/form-data"})

    assert missing["errors"][0]["field"] == "manifest"
    assert textual["errors"][0]["field"] == "file"
    assert twice["errors"][0]["field"] == "name"
    assert {problem["status"] for problem in (extra, broken, unbounded)} == {422}


def test_an_upload_beyond_the_limit_is_cut_off(
    settings: GatewaySettings, services: Services
) -> None:
    small = settings.model_copy(update={"maximum_upload_bytes": 100_000})
    with running(small, services) as house:
        house.add("owner", "owner")
        described = manifest(open_population(house))
        problem = house.refused("owner", "POST", "/v1/datasets", **_form(described, bytes(200_000)))

    assert (problem["status"], problem["code"]) == (413, "too_large")


def test_nobody_registers_data_on_somebody_elses_people(gateway: Gateway) -> None:
    population = open_population(gateway)
    gateway.add("stranger", "owner")

    theirs = gateway.refused(
        "stranger", "POST", "/v1/datasets", **_form(manifest(population), npz())
    )
    nobodys = gateway.refused(
        "stranger", "POST", "/v1/datasets", **_form(manifest("pop_nothing"), npz())
    )

    assert theirs["code"] == nobodys["code"] == "not_found"
    assert theirs["detail"] == nobodys["detail"]


def test_a_withdrawn_version_takes_no_jobs_until_it_is_offered_again(gateway: Gateway) -> None:
    clinic = opened(gateway)
    path = f"/v1/datasets/{clinic.dataset}"
    why = {"reason": "complaint of a patient"}

    shown = gateway.ok("owner", "POST", f"{path}/freeze", json=why)
    refused = gateway.refused("researcher", "POST", "/v1/jobs", json=clinic.job())
    again = gateway.refused("owner", "POST", f"{path}/freeze", json=why)

    assert shown["frozen"] is True
    assert refused["code"] == "frozen"
    assert again["code"] == "conflict"
    assert gateway.ok("researcher", "GET", "/v1/datasets")["items"] == []
    assert gateway.ok("owner", "POST", f"{path}/unfreeze", json=why)["frozen"] is False
    gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job())
    notes = gateway.ok("auditor", "GET", "/v1/ledger?kind=note")["items"]
    assert [note["leaf"]["facts"]["action"] for note in notes] == [
        "dataset freeze", "dataset unfreeze",
    ]  # fmt: skip
    assert {note["actor"] for note in notes} == {gateway.ids["owner"]}


def test_only_its_owner_withdraws_a_version_and_says_why(gateway: Gateway) -> None:
    clinic = opened(gateway)
    path = f"/v1/datasets/{clinic.dataset}/freeze"
    gateway.add("stranger", "owner")

    for who, body, code in (
        ("stranger", {"reason": "envy"}, "not_found"),
        ("admin", {"reason": "power"}, "not_found"),
        ("researcher", {"reason": "envy"}, "forbidden"),
        ("owner", {"reason": ""}, "invalid_request"),
        ("owner", {}, "invalid_request"),
    ):
        assert gateway.refused(who, "POST", path, json=body)["code"] == code
    assert gateway.ok("owner", "GET", f"/v1/datasets/{clinic.dataset}")["frozen"] is False
