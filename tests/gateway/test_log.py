"""The log over HTTP: proofs that an outsider can check, witnesses, and old databases refused."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accounting import log_keys
from gateway.app import create_app
from gateway.settings import GatewaySettings
from jobs.services import Services
from kit.db import Database
from policies.engine import PolicyEngine
from privacy_gateway import checkpoint, merkle
from privacy_gateway.errors import Refused
from tests.gateway.clinic import Clinic, open_population, opened
from tests.gateway.conftest import Gateway, running

LEDGER = "/v1/ledger"


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    """A clinic where a job was reserved and cancelled."""
    found = opened(gateway)
    job = gateway.ok("researcher", "POST", "/v1/jobs", json=found.job())
    gateway.ok("researcher", "POST", f"/v1/jobs/{job['id']}/cancel")
    return found


def until(ask: Callable[[], Any]) -> Any:
    """The first answer that is something; housekeeping runs many times a second here."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := ask():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def signed(house: Gateway, size: int) -> dict[str, Any]:
    """The checkpoint over at least `size` entries."""

    def ask() -> dict[str, Any] | None:
        with house.client("auditor") as client:
            answer = client.get(f"{LEDGER}/checkpoint")
        found: dict[str, Any] = answer.json()
        return found if answer.is_success and found["size"] >= size else None

    return until(ask)  # type: ignore[no-any-return]


def witnessed(settings: GatewaySettings) -> str | None:
    """What the witness file says; it is written after the checkpoint can be read."""
    file = settings.witness()
    return file.read_text() if file.is_file() else None


def test_everybody_gets_the_checkpoint_and_its_keys(clinic: Clinic) -> None:
    house = clinic.house
    head = signed(house, 3)
    (key,) = house.ok("researcher", "GET", f"{LEDGER}/keys")["items"]
    believed, _ = checkpoint.verify(head["note"], [checkpoint.read_verifier(key["public"])])
    assert (believed.origin, believed.size) == (head["origin"], head["size"])
    assert believed.root.hex() == head["root"]
    assert key["signs"] is True
    assert house.ok("researcher", "GET", f"{LEDGER}/checkpoint") == head


def test_every_entry_is_proven_by_its_seal(clinic: Clinic) -> None:
    house = clinic.house
    head = signed(house, 3)
    root = bytes.fromhex(head["root"])
    for entry in house.ok("auditor", "GET", LEDGER)["items"]:
        params = {"population": entry["population"], "seq": entry["seq"]}
        proof = house.ok("owner", "GET", f"{LEDGER}/proofs/inclusion", params=params)
        assert proof["hash"] == entry["hash"]
        assert (proof["root"], proof["size"]) == (head["root"], head["size"])
        leaf = merkle.leaf_hash(bytes.fromhex(entry["hash"]))
        path = [bytes.fromhex(part) for part in proof["path"]]
        assert merkle.verify_inclusion(leaf, proof["index"], proof["size"], path, root)
        params = {"seq": proof["index"], "size": proof["size"]}
        assert house.ok("auditor", "GET", f"{LEDGER}/proofs/inclusion", params=params) == proof


def test_the_log_only_grows(clinic: Clinic) -> None:
    house = clinic.house
    old = signed(house, 3)
    open_population(house, "owner")
    new = signed(house, old["size"] + 1)
    params = {"first": old["size"], "second": new["size"]}
    proof = house.ok("researcher", "GET", f"{LEDGER}/proofs/consistency", params=params)
    assert (proof["first_root"], proof["second_root"]) == (old["root"], new["root"])
    assert merkle.verify_consistency(
        old["size"],
        new["size"],
        bytes.fromhex(old["root"]),
        bytes.fromhex(new["root"]),
        [bytes.fromhex(part) for part in proof["path"]],
    )


def test_a_proof_is_given_to_those_who_may_see_the_entry(clinic: Clinic) -> None:
    house = clinic.house
    signed(house, 3)
    house.add("other", "owner")
    ask = f"{LEDGER}/proofs/inclusion"
    of_clinic = {"population": clinic.population, "seq": 1}
    hidden = house.refused("other", "GET", ask, params=of_clinic)
    by_place = house.refused("other", "GET", ask, params={"seq": 0})
    absent = house.refused("other", "GET", ask, params={"seq": 10**6})
    assert hidden["code"] == by_place["code"] == absent["code"] == "not_found"
    assert hidden["detail"] == by_place["detail"] == absent["detail"]
    assert house.refused("researcher", "GET", ask, params=of_clinic)["code"] == "forbidden"
    for params in ({}, {"seq": -1}, {"seq": 0, "size": 0}, {"seq": 1 << 63}):
        assert house.refused("auditor", "GET", ask, params=params)["code"] == "invalid_request"
    beyond = house.refused("auditor", "GET", ask, params={"seq": 0, "size": 10**6})
    assert beyond["code"] == "not_found"


def test_a_receipt_brings_its_proof(clinic: Clinic) -> None:
    house = clinic.house
    signed(house, 3)
    job = house.ok("researcher", "GET", "/v1/jobs")["items"][0]["id"]
    receipt = house.ok("researcher", "GET", f"/v1/jobs/{job}/receipt")
    proof, ledger = receipt["log"], receipt["ledger"]
    assert (proof["status"], proof["seq"]) == ("integrated", ledger["last_seq"])
    assert proof["hash"] == ledger["last_hash"]
    leaf = merkle.leaf_hash(bytes.fromhex(ledger["last_hash"]))
    path = [bytes.fromhex(part) for part in proof["path"]]
    root = checkpoint.parse(proof["checkpoint"]).checkpoint.root
    assert merkle.verify_inclusion(leaf, proof["index"], proof["size"], path, root)


def test_the_witness_holds_the_checkpoint_and_the_key_its_mode(clinic: Clinic) -> None:
    house = clinic.house
    head = signed(house, 3)
    settings = house.services.settings
    until(lambda: witnessed(settings) == head["note"])
    assert (settings.key_directory() / "log-ed25519").stat().st_mode & 0o777 == 0o600
    assert until(lambda: house.ok("auditor", "GET", "/readyz")["parts"]["witness"] == "ok")


def test_a_key_added_signs_beside_the_old_one(clinic: Clinic) -> None:
    house = clinic.house
    head = signed(house, 3)
    old = house.ok("auditor", "GET", f"{LEDGER}/keys")["items"][0]["public"]
    log_keys.add(house.services.settings.key_directory(), head["origin"])
    found = until(
        lambda: len(keys := house.ok("auditor", "GET", f"{LEDGER}/keys")["items"]) == 2 and keys
    )
    again = house.ok("auditor", "GET", f"{LEDGER}/checkpoint")
    both = [checkpoint.read_verifier(key["public"]) for key in found]
    assert len(checkpoint.verify(again["note"], both)[1]) == 2
    assert checkpoint.verify(again["note"], [checkpoint.read_verifier(old)])


def test_a_witness_that_cannot_be_had_is_shown_and_holds_nobody_up(
    settings: GatewaySettings, services: Services
) -> None:
    blocked = settings.state_dir / "blocked"
    blocked.write_text("a file where a folder should be")
    other = settings.model_copy(update={"witness_path": settings.state_dir / "w" / "checkpoint"})
    (settings.state_dir / "w").mkdir()
    with running(other, services_of(services, other)) as house:
        house.add("owner", "owner")
        house.add("auditor", "auditor")
        (settings.state_dir / "w").rmdir()
        (settings.state_dir / "w").symlink_to(blocked)
        open_population(house, "owner")
        until(lambda: house.ok("auditor", "GET", "/readyz")["parts"]["witness"] == "down")
        # What a witness cannot contradict is not signed; what people do goes on.
        assert house.refused("auditor", "GET", f"{LEDGER}/checkpoint")["code"] == "not_ready"
        (settings.state_dir / "w").unlink()
        until(lambda: house.ok("auditor", "GET", "/readyz")["parts"]["witness"] == "ok")
        head = signed(house, 1)
        until(lambda: witnessed(other) == head["note"])


def services_of(services: Services, settings: GatewaySettings) -> Services:
    return Services(settings, services.database, services.engine)


def test_a_restored_old_backup_is_refused_and_says_what_to_do(
    settings: GatewaySettings, services: Services, engine: PolicyEngine, tmp_path: Path
) -> None:
    with running(settings, services) as house:
        house.add("owner", "owner")
        house.add("auditor", "auditor")
        open_population(house, "owner")
        head = signed(house, 1)
        until(lambda: witnessed(settings) == head["note"])
    backup = tmp_path / "backup.sqlite3"
    with (
        closing(sqlite3.connect(settings.state_dir / "gateway.sqlite3")) as source,
        closing(sqlite3.connect(backup)) as copy,
    ):
        source.backup(copy)
    with running(settings, services) as house:
        house.add("second", "owner")
        house.add("reader", "auditor")
        open_population(house, "second")
        until(lambda: checkpoint.parse(settings.witness().read_text()).checkpoint.size == 2)

    database = Database(f"sqlite:///{backup}")
    old = Services(settings, database, engine)
    try:
        refusal = refused_start(settings, old)
        assert refusal.facts["reason"] == "rolled_back"
        assert (refusal.facts["entries"], refusal.facts["witnessed"]) == (1, 2)
        assert "Restore the newest" in refusal.detail
        replica = settings.model_copy(update={"housekeeping": False})
        assert refused_start(replica, old).facts["reason"] == "rolled_back"
    finally:
        database.close()


def refused_start(settings: GatewaySettings, services: Services) -> Refused:
    """The refusal of an application's start."""
    app = create_app(settings, services)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    with pytest.raises(Refused) as caught:
        asyncio.run(start())
    return caught.value
