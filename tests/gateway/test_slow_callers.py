"""Requests that take long, and callers that are slow, take nothing that others need."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx
import numpy as np
import pytest

from accounting import ledger
from gateway import auth
from gateway.api import datasets, jobs, weights
from gateway.api.ledger import export
from gateway.places import Places
from jobs.principal import Principal
from jobs.services import Services
from kit.clock import utc_now
from privacy_gateway.errors import Refused
from tests.gateway.clinic import CLIENTS, FEATURES, manifest, npz, open_population, opened
from tests.gateway.conftest import PASSWORD, Gateway

LOG_INS = 36


def test_a_place_is_free_again_after_its_request() -> None:
    places = Places("things", in_all=3, of_one=2)
    with places.taken("a"), places.taken("b"):
        with places.taken("a"):
            for caller in ("a", "b", "c"):
                with pytest.raises(Refused) as caught, places.taken(caller):
                    pass
                assert caught.value.code == "unavailable"
        places.look("a")
    for _ in range(3):
        with places.taken("a"):
            pass


def test_log_ins_leave_room_for_everybody_else(gateway: Gateway) -> None:
    """Strangers send more log-ins than are checked at a time; who is logged in is served."""
    body = {"email": "nobody@example.org", "password": PASSWORD}
    with (
        httpx.Client(base_url=gateway.url, timeout=120, trust_env=False) as stranger,
        gateway.client("owner") as owner,
        ThreadPoolExecutor(LOG_INS + 1) as crowd,
    ):
        with ExitStack() as slow:
            for _ in range(4):  # argon2 takes as long as this block
                slow.enter_context(auth._HASHING)
            waiting = [crowd.submit(stranger.post, "/v1/login", json=body) for _ in range(LOG_INS)]
            served = crowd.submit(owner.get, "/v1/me")
            done, _ = wait([served], timeout=25)
            # Only a refusal is answered while passwords cannot be checked: the crowd has come.
            wait(waiting, timeout=60, return_when=FIRST_COMPLETED)
        codes = {each.result().json()["code"] for each in waiting}
    assert done, "an account that was logged in had to wait for log-ins of strangers"
    assert served.result().status_code == 200
    assert codes == {"unauthenticated", "unavailable"}


def test_nobody_holds_a_connection_while_a_file_is_read(gateway: Gateway) -> None:
    population = open_population(gateway)
    described = manifest(
        population,
        format="csv",
        features=[f"x{number}" for number in range(FEATURES)],
        examples_per_client=1000,
    )
    state = gateway.services.settings.state_dir / datasets.catalogue.FOLDER
    pool = gateway.services.database.engine.pool
    seen: set[int] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            if any(state.glob(".incoming-*")):
                seen.add(pool.checkedout())  # type: ignore[attr-defined]

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        gateway.ok(
            "owner",
            "POST",
            "/v1/datasets",
            data={"manifest": json.dumps(described)},
            files={"file": ("visits.csv", table(rows=CLIENTS * 300), "text/csv")},
        )
    finally:
        ended.set()
        watcher.join()
    assert 0 in seen


def table(*, rows: int) -> bytes:
    names = ",".join(["client", "y", *(f"x{number}" for number in range(FEATURES))])
    numbers = np.random.default_rng(7).normal(size=(rows, FEATURES))
    lines = (
        f"{row % CLIENTS},{row % 2},{','.join(f'{value:.6f}' for value in numbers[row])}"
        for row in range(rows)
    )
    return "\n".join([names, *lines]).encode()


def test_one_owner_reads_two_files_at_a_time_and_others_theirs(gateway: Gateway) -> None:
    population = open_population(gateway)
    form = {
        "data": {"manifest": json.dumps(manifest(population))},
        "files": {"file": ("visits.npz", npz(), "application/octet-stream")},
    }
    with datasets._READING.taken(gateway.ids["owner"]):
        with datasets._READING.taken(gateway.ids["owner"]):
            problem = gateway.refused("owner", "POST", "/v1/datasets", **form)
            assert (problem["status"], problem["code"]) == (503, "unavailable")
        gateway.ok("owner", "POST", "/v1/datasets", **form)


def test_one_researcher_uploads_two_models_at_a_time(gateway: Gateway) -> None:
    file = io.BytesIO()
    np.savez(file, weight_0000=np.ones((2, 2), np.float32))
    form = {
        "content": file.getvalue(),
        "headers": {"Content-Type": "application/x-npz"},
    }
    with weights._UPLOADS.taken(gateway.ids["researcher"]):
        with weights._UPLOADS.taken(gateway.ids["researcher"]):
            problem = gateway.refused("researcher", "POST", "/v1/weights", **form)
            assert (problem["status"], problem["code"]) == (503, "unavailable")
        gateway.ok("researcher", "POST", "/v1/weights", **form)
    assert not weights._UPLOADS._taken.total()


def test_one_account_follows_so_many_jobs_at_a_time(gateway: Gateway) -> None:
    clinic = opened(gateway)
    job = gateway.ok("researcher", "POST", "/v1/jobs", json=clinic.job())["id"]
    gateway.ok("researcher", "POST", f"/v1/jobs/{job}/cancel")
    path = f"/v1/jobs/{job}/events"
    with ExitStack() as streams:
        for _ in range(32):
            streams.enter_context(jobs._STREAMS.taken(gateway.ids["researcher"]))
        assert gateway.refused("researcher", "GET", path)["code"] == "unavailable"
        with gateway.client("auditor") as client:
            assert client.get(path).is_success
    with gateway.client("researcher") as client:
        assert client.get(path).is_success


def test_whoever_reads_an_export_slowly_holds_no_connection(
    services: Services, tmp_path: Path
) -> None:
    with services.database.unit_of_work() as session:
        ledger.open_population(
            session,
            population_id="pop_1",
            name="patients",
            privacy_unit="patient",
            clients=60,
            epsilon=8.0,
            delta=1e-4,
            owner_id="usr_1",
            now=utc_now(),
        )
        for _ in range(200):
            ledger.note(
                session,
                population_id="pop_1",
                reason="x" * 200,
                actor_id="usr_1",
                facts={},
                now=utc_now(),
            )
    auditor = Principal("usr_2", "a@example.org", "auditor", "default")
    answer = export(services, auditor, "jsonl")

    async def begin() -> int:
        async for block in answer.body_iterator:
            return len(block)
        return 0

    assert anyio.run(begin)
    assert services.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
