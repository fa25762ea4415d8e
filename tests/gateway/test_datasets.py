"""Data sets over HTTP: two ways in, metadata out, nothing of the machine or the data besides."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import privacy_gateway as pg
from gateway.settings import GatewaySettings
from jobs.services import Services
from tests.gateway.clinic import CLIENTS, FEATURES, manifest, npz, open_population, opened, upload
from tests.gateway.conftest import Gateway, running
from tests.support.owner_files import FORMATS, Rows, write


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


def test_mock_records_are_for_whoever_sees_the_version_and_only_look_like_it(
    gateway: Gateway,
) -> None:
    clinic = opened(gateway)
    path = f"/v1/datasets/{clinic.dataset}/mock"
    for who in ("owner", "researcher", "auditor"):
        with gateway.client(who) as client:
            answer = client.get(path, params={"clients": 5, "examples": 4})
        assert answer.headers["content-type"] == "application/x-npz"
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as arrays:
            assert arrays["features"].shape[1:] == (FEATURES,)
            assert arrays["client"].max() == 4
            assert set(arrays["label"].tolist()) <= {0, 1}
    problem = gateway.refused("researcher", "GET", path, params={"clients": 0})
    assert [error["field"] for error in problem["errors"]] == ["clients"]


def test_mock_records_of_what_one_cannot_see_do_not_exist(gateway: Gateway) -> None:
    unseen = upload(gateway, manifest(open_population(gateway)))
    for dataset in (unseen["id"], "ds_none"):
        problem = gateway.refused("researcher", "GET", f"/v1/datasets/{dataset}/mock")
        assert problem["code"] == "not_found"


def test_the_library_hands_mock_records_to_a_model_as_training_would(gateway: Gateway) -> None:
    population = open_population(gateway)
    described = manifest(population, scale=0.25, feature_range=[-8, 8])
    domain = pg.login(url=gateway.url, token=gateway.tokens["owner"])
    made = domain.dataset(upload(gateway, described)["id"])
    first, again = made.mock(clients=7, examples=3), domain.datasets[0].mock(clients=7)
    assert (first.clients, again.clients) == (7, 7)
    assert first.features.dtype == np.float32
    assert np.abs(first.features).max() <= 2
    assert "of 7 clients" in repr(first)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_registered_over_http(gateway: Gateway, tmp_path: Path, form: str) -> None:
    numbers = np.random.default_rng(5)
    who = [f"p{number:02}" for number in range(CLIENTS)] * 2
    x = numbers.normal(size=(len(who), FEATURES)).astype(np.float32)
    rows = Rows(who, x, numbers.integers(0, 2, len(who)).tolist())
    content = write(form, tmp_path / "file", rows).read_bytes()
    described = manifest(open_population(gateway), **rows.manifest(form))

    made = gateway.ok("owner", "POST", "/v1/datasets", **_form(described, content))

    assert (made["clients"], made["feature_shape"]) == (CLIENTS, [FEATURES])
    assert made["assets"][1]["name"] == "y"


def test_the_operators_limits_hold(settings: GatewaySettings) -> None:
    tight = settings.model_copy(
        update={
            "maximum_upload_bytes": 1,
            "maximum_dataset_rows": 2,
            "maximum_dataset_bytes": 3,
            "maximum_record_numbers": 4,
            "maximum_record_bytes": 5,
            "maximum_row_group_bytes": 6,
        }
    )
    limits = tight.data_limits()
    assert (limits.file_bytes, limits.rows, limits.unpacked_bytes) == (1, 2, 3)
    assert (limits.row_elements, limits.record_bytes, limits.row_group_bytes) == (4, 5, 6)


def test_a_share_of_public_test_people_is_drawn_at_registration(
    gateway: Gateway, tmp_path: Path
) -> None:
    """The refusal tells how many stay private; a population of so many takes the same file."""
    rows = Rows([f"p{number}" for number in range(80)], np.zeros((80, 2), np.float32), [0] * 80)
    content = write("npz", tmp_path / "file", rows).read_bytes()
    of = {**rows.manifest("npz"), "test_fraction": 0.25, "test_public": False}
    first = open_population(gateway, clients=80)

    problem = gateway.refused(
        "owner", "POST", "/v1/datasets", **_form(manifest(first, **of), content)
    )

    found = problem["clients_found"]
    assert 30 < found < 80  # beyond either once in a billion draws
    assert problem["clients_declared"] == 80
    right = open_population(gateway, clients=found)
    made = gateway.ok("owner", "POST", "/v1/datasets", **_form(manifest(right, **of), content))
    assert (made["clients"], made["test_examples"]) == (found, 80 - found)
