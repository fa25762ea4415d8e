"""A quote and a refusal know nothing of anybody's records: not in words, not in price, not in time.

Two data sets that differ in one person's records, and the same with their files gone, are refused
in the same bytes; and nothing below a store is opened on the way, so time has nothing to depend on.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import admission, catalogue
from jobs.principal import Principal
from jobs.services import Services
from jobs.tables_datasets import Dataset
from privacy_gateway import schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
from tests.gateway.clinic import Clinic, manifest, npz, opened, publish
from tests.gateway.conftest import Gateway

REFUSED: dict[str, dict[str, Any]] = {
    "policy": {"purpose": "advertising"},
    "every rule at once": {"purpose": "advertising", "rounds": 5000, "noise_multiplier": 0.31},
    "budget": {"rounds": 900, "noise_multiplier": 0.4},
    "floor": {"noise_multiplier": 0.05},
    "plan": {"clients_per_round": 61},
    "model": {"model__architecture__input__shape": [9]},
}
_VARIES = re.compile(r"\b(ds|job|pol|dec|quo|req|try)_\w+|\d{4}-\d\d-\d\dT[\d:.]+Z")
_SEEN: list[str] = []
_watching = False


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir", "mmap.__new__"):
        _SEEN.append(str(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Everything that this process, gateway included, opens meanwhile."""
    global _watching
    _SEEN.clear()
    _watching = True
    try:
        yield _SEEN
    finally:
        _watching = False


def neighbour() -> bytes:
    """The clinic's file with other records of one person."""
    rows = dict(np.load(io.BytesIO(npz())))
    hers = rows["client"] == 17
    rows["x"][hers] = 1e6
    rows["y"][hers] = 1 - rows["y"][hers]
    file = io.BytesIO()
    np.savez(file, **rows)
    return file.getvalue()


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    return opened(gateway)


@pytest.fixture
def beside(clinic: Clinic) -> Clinic:
    """The same people, one of them with other records."""
    described = manifest(clinic.population, name="visits of others")
    made = clinic.house.ok(
        "owner",
        "POST",
        "/v1/datasets",
        data={"manifest": json.dumps(described)},
        files={"file": ("visits.npz", neighbour(), "application/octet-stream")},
    )
    publish(clinic.house, made["id"])
    return Clinic(clinic.house, clinic.population, made["id"])


def said(clinic: Clinic, services: Services) -> list[str]:
    """Every refusal over HTTP and from the use case, without ids and times."""
    found = []
    caller = Principal(clinic.house.ids["researcher"], "researcher@example.org", "researcher")
    with clinic.house.client("researcher") as client:
        for changes in REFUSED.values():
            body = clinic.job(**changes)
            quote = client.post("/v1/quotes", json={"job": body})
            refusal = client.post("/v1/jobs", json=body)
            assert refusal.is_client_error, refusal.text
            found += [f"{answer.status_code} {answer.text}" for answer in (quote, refusal)]
            with pytest.raises(Refused) as refused:
                wanted = schemas.parse(JobRequest, body)
                admission.submit(services, caller, wanted, None)
            facts = (refused.value.code, refused.value.detail, refused.value.errors)
            found.append(repr((facts, refused.value.facts)))
    return [_VARIES.sub(r"\1", text) for text in found]


def stores(clinic: Clinic, services: Services) -> list[Path]:
    with services.database.read() as session:
        row = session.get_one(Dataset, clinic.dataset)
        paths = catalogue.stores(row, services.settings.state_dir)
    return [path for path in paths if path is not None]


def test_refusals_are_the_same_bytes_whatever_the_records_are(
    clinic: Clinic, beside: Clinic, services: Services
) -> None:
    first = said(clinic, services)
    assert len(first) == 3 * len(REFUSED)
    assert first[6].startswith("200 ")
    assert '"counter_offer":{' in first[6]
    assert said(beside, services) == first
    for path in stores(beside, services):
        assert path.exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said(beside, services) == first


def test_nothing_of_a_store_is_opened_on_the_way(clinic: Clinic, services: Services) -> None:
    said(clinic, services)  # what is imported late is imported now
    with watched() as seen:
        said(clinic, services)
        (services.settings.state_dir / "seen").write_text("the hook works", encoding="utf-8")
    assert str(services.settings.state_dir / "seen") in seen
    homes = [str(path) for path in stores(clinic, services)]
    assert homes
    assert [path for path in seen if any(path.startswith(home) for home in homes)] == []
    state = services.settings.state_dir
    inside = [Path(path).relative_to(state) for path in seen if path.startswith(str(state))]
    # The log's key and witness, by the notary beside; this test's own proof that it sees; and the
    # database, which is looked for when notary and requests need one connection more than before.
    database = Path(services.database.url.database or "").name
    assert {path.parts[0] for path in inside} <= {"keys", "witness", "seen", database}
