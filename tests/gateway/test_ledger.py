"""The ledger over HTTP: filters, scopes, exports that verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privacy_gateway import chain, tabular
from privacy_gateway.verify import verify
from tests.gateway.clinic import Clinic, open_population, opened
from tests.gateway.conftest import Gateway


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    """A clinic where a job was reserved, another refused, and the first cancelled."""
    found = opened(gateway)
    job = gateway.ok("researcher", "POST", "/v1/jobs", json=found.job())
    gateway.refused("researcher", "POST", "/v1/jobs", json=found.job(purpose="ads"))
    gateway.ok("researcher", "POST", f"/v1/jobs/{job['id']}/cancel")
    return found


def test_entries_are_chained_filtered_and_paged(clinic: Clinic) -> None:
    house = clinic.house
    entries = house.ok("auditor", "GET", "/v1/ledger")["items"]
    job = next(entry["job"] for entry in entries if entry["kind"] == "reserve")

    assert [entry["kind"] for entry in entries] == ["open", "reserve", "deny", "void"]
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4]
    for earlier, later in zip(entries, entries[1:], strict=False):
        assert later["prev_hash"] == earlier["hash"]
    of_job = house.ok("auditor", "GET", f"/v1/ledger?job={job}")["items"]
    assert [entry["kind"] for entry in of_job] == ["reserve", "void"]
    mine = house.ok("auditor", "GET", f"/v1/ledger?researcher={house.ids['researcher']}")["items"]
    assert len(mine) == 3
    since = house.ok("auditor", "GET", "/v1/ledger", params={"since": entries[2]["at"]})["items"]
    until = house.ok("auditor", "GET", "/v1/ledger", params={"until": entries[2]["at"]})["items"]
    assert until + since == entries

    paged, after = [], None
    while True:
        params = {"limit": 3} | ({"after": after} if after else {})
        page = house.ok("auditor", "GET", "/v1/ledger", params=params)
        paged += page["items"]
        after = page["next"]
        if after is None:
            break
    assert paged == entries
    assert house.ok("auditor", "GET", f"/v1/ledger/{entries[1]['id']}") == entries[1]


def test_the_export_is_the_chain_and_a_flipped_byte_shows(clinic: Clinic) -> None:
    with clinic.house.client("auditor") as client:
        answer = client.get("/v1/ledger/export?format=jsonl")
    lines = answer.content.splitlines()
    # Behind the heads the log may already stand; `test_log` checks it.
    lines = [line for line in lines if not line.startswith((b'{"order"', b'{"checkpoint"'))]

    assert answer.headers["content-type"] == "application/jsonl"
    assert json.loads(lines[0])["format"] == chain.FORMAT
    previous = chain.GENESIS
    for line in lines[1:-1]:
        entry = json.loads(line)
        assert entry["prev"] == previous
        previous = chain.seal(previous, chain.leaf_bytes(entry["leaf"]))
        assert entry["hash"] == previous
    assert json.loads(lines[-1])["head"]["hash"] == previous


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_every_form_of_the_export_holds_the_same_lines(
    clinic: Clinic, form: str, tmp_path: Path
) -> None:
    path = tmp_path / f"ledger.{form}"
    with clinic.house.client("auditor") as client:
        answer = client.get(f"/v1/ledger/export?format={form}")
        plain = client.get("/v1/ledger/export").content.splitlines()
    path.write_bytes(answer.content)
    with tabular.opened(path) as lines:
        found = list(lines)

    assert form in answer.headers["content-type"]
    assert _entries(found) == _entries(plain)
    assert len(_entries(found)) == 4
    with tabular.opened(path) as lines:
        assert verify(lines).ok


def _entries(lines: list[bytes]) -> list[bytes]:
    """The log may have grown between two requests; the entries have not."""
    return [line for line in lines if line.startswith(b'{"hash"')]


def test_an_owner_sees_only_their_own_populations(clinic: Clinic) -> None:
    house = clinic.house
    house.add("other", "owner")
    theirs = open_population(house, "other")

    seen = house.ok("other", "GET", "/v1/ledger")["items"]
    with house.client("other") as client:
        export = client.get("/v1/ledger/export").text
    everything = house.ok("auditor", "GET", "/v1/ledger")["items"]
    asked = house.ok("other", "GET", f"/v1/ledger?population={clinic.population}")

    assert [entry["population"] for entry in seen] == [theirs]
    assert clinic.population not in export
    assert {entry["population"] for entry in everything} == {theirs, clinic.population}
    assert asked["items"] == []
    hidden = house.refused("other", "GET", f"/v1/ledger/{everything[0]['id']}")
    missing = house.refused("other", "GET", "/v1/ledger/999999")
    assert hidden["code"] == missing["code"] == "not_found"


def test_an_entry_that_cannot_be_is_refused_under_its_own_name(gateway: Gateway) -> None:
    shown = gateway.refused("auditor", "GET", "/v1/ledger/first")
    listed = gateway.refused("auditor", "GET", "/v1/ledger?after=first")
    assert [problem["errors"][0]["field"] for problem in (shown, listed)] == ["entry_id", "after"]


def test_a_refused_job_is_entered_with_who_asked(gateway: Gateway) -> None:
    clinic = opened(gateway)
    gateway.refused("researcher", "POST", "/v1/jobs", json=clinic.job(purpose="ads"))
    (entry,) = gateway.ok("auditor", "GET", "/v1/ledger?kind=deny")["items"]
    assert entry["actor"] == entry["researcher"] == gateway.ids["researcher"]
