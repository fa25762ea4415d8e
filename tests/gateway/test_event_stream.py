"""The event stream misused: odd numbers of events, a token revoked meanwhile; and odd times."""

from __future__ import annotations

import threading

import pytest

from tests.gateway import clinic as clinics
from tests.gateway.clinic import Clinic
from tests.gateway.conftest import Gateway


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    return clinics.opened(gateway)


@pytest.mark.parametrize("number", [b"\xb2", b"-1", b"1e3", b"x"])
def test_what_is_no_number_of_an_event_is_refused(clinic: Clinic, number: bytes) -> None:
    job = clinic.house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())["id"]
    problem = clinic.house.refused(
        "researcher", "GET", f"/v1/jobs/{job}/events", headers={b"last-event-id": number}
    )
    assert problem["code"] == "invalid_request"


def test_a_number_that_no_database_holds_is_after_every_event(clinic: Clinic) -> None:
    job = clinic.house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())["id"]
    clinic.house.ok("researcher", "POST", f"/v1/jobs/{job}/cancel")
    with clinic.house.client("researcher") as client:
        answer = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "9" * 20})
    assert answer.status_code == 200
    assert "id:" not in answer.text


def test_a_stream_ends_with_the_token_it_was_opened_with(clinic: Clinic) -> None:
    house = clinic.house
    job = house.ok("researcher", "POST", "/v1/jobs", json=clinic.job())["id"]
    made = house.ok("researcher", "POST", "/v1/tokens", json={"label": "lent", "hours": 1})
    house.tokens["lent"] = made["token"]
    begun = threading.Event()

    def listen() -> None:
        with (
            house.client("lent") as client,
            client.stream("GET", f"/v1/jobs/{job}/events") as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    begun.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert begun.wait(60)
    house.ok("researcher", "DELETE", f"/v1/tokens/{made['id']}")
    listener.join(60)
    ended = not listener.is_alive()
    house.ok("researcher", "POST", f"/v1/jobs/{job}/cancel")
    listener.join(60)
    assert ended, "the stream went on without a token"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/populations/{}/budget?at=9999-12-31T23:59:59-23:59",
        "/v1/ledger?since=9999-12-31T23:59:59-23:59",
        "/v1/statements?population={}&from=0001-01-01T00:00:00%2B23:59",
    ],
)
def test_a_time_in_a_year_that_utc_does_not_have_is_refused(clinic: Clinic, path: str) -> None:
    problem = clinic.house.refused("owner", "GET", path.format(clinic.population))
    assert problem["code"] == "invalid_request"
