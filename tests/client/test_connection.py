"""The wire: what is repeated, what is not, and how answers become refusals."""

from __future__ import annotations

import gzip
import hashlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from privacy_gateway.client import Domain
from privacy_gateway.connection import ATTEMPTS, Connection
from privacy_gateway.errors import Refused

URL = "http://127.0.0.1:1"


class Wire:
    """Answers one after the other; an exception in the list is raised instead."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def connection(self, **options: Any) -> Connection:
        transport = httpx.MockTransport(self)
        return Connection(URL, "tok", transport=transport, pause=self.pauses.append, **options)


def problem(status: int, code: str, **facts: Any) -> httpx.Response:
    body = {"type": "t", "title": "T", "status": status, "detail": "said", "code": code, **facts}
    return httpx.Response(status, json=body, headers=facts.pop("headers", None))


DOWN = problem(503, "unavailable")
GONE = httpx.ConnectError("refused")
FINE = httpx.Response(200, json={"ok": 1})


def get(connection: Connection) -> Any:
    return connection.get("/v1/me")


def post(connection: Connection) -> Any:
    return connection.post("/v1/populations", {})


def post_again(connection: Connection) -> Any:
    return connection.post("/v1/quotes", {}, repeatable=True)


@pytest.mark.parametrize("call", [get, post_again])
@pytest.mark.parametrize("hiccup", [DOWN, GONE, httpx.Response(502, text="<html>")])
def test_reads_and_repeatable_posts_survive_a_hiccup(
    call: Callable[[Connection], Any], hiccup: httpx.Response | Exception
) -> None:
    wire = Wire(hiccup, hiccup, FINE)
    assert call(wire.connection()) == {"ok": 1}
    assert wire.pauses == [0.2, 0.4]


@pytest.mark.parametrize("hiccup", [DOWN, GONE])
def test_other_posts_are_sent_once(hiccup: httpx.Response | Exception) -> None:
    wire = Wire(hiccup, FINE)
    with pytest.raises(Refused) as caught:
        post(wire.connection())
    assert caught.value.code == "unavailable"
    assert len(wire.requests) == 1


def test_a_submit_is_repeated_under_one_key() -> None:
    job = {
        "id": "job_1", "status": "queued", "dataset": "ds_1", "purpose": "p", "kind": "train",
        "rounds": 1, "rounds_charged": 0, "rounds_published": 0, "clients_per_round": 1,
        "noise_multiplier": 1.0, "epsilon": 1.0, "delta": 1e-5, "created_at": "", "updated_at": "",
        "request": {},
    }  # fmt: skip
    wire = Wire(GONE, httpx.ReadTimeout("late"), httpx.Response(202, json=job))
    assert Domain(wire.connection()).submit({"rounds": 1}).id == "job_1"
    keys = {request.headers["Idempotency-Key"] for request in wire.requests}
    assert (len(wire.requests), len(keys)) == (3, 1)


def hash_of(data: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.mark.parametrize(
    ("headers", "damaged"),
    [
        ({"Repr-Digest": hash_of(b"the file")}, False),
        ({"Repr-Digest": hash_of(b"another file")}, True),
        ({"Repr-Digest": f"sha-512=:AAAA:, {hash_of(b'the file')}"}, False),
        ({"Repr-Digest": f"{hash_of(b'another file')}, sha-512=:AAAA:"}, True),
        ({"Repr-Digest": "sha-512=:AAAA:"}, False),
        ({}, False),
    ],
    ids=["the same", "another", "one of two", "another of two", "of another kind", "nothing"],
)
def test_a_download_is_what_the_gateway_told_of(headers: dict[str, str], damaged: bool) -> None:
    answer = httpx.Response(200, content=b"the file", headers=headers)
    with Wire(answer).connection().stream("/v1/jobs/job_1/result") as blocks:
        if damaged:
            with pytest.raises(Refused, match="damaged"):
                b"".join(blocks)
        else:
            assert b"".join(blocks) == b"the file"


def test_a_file_compressed_on_the_way_is_not_compared() -> None:
    headers = {"Content-Encoding": "gzip", "Repr-Digest": hash_of(b"the file as it was sent")}
    answer = httpx.Response(200, content=gzip.compress(b"the file"), headers=headers)
    with Wire(answer).connection().stream("/v1/jobs/job_1/result") as blocks:
        assert b"".join(blocks) == b"the file"


def test_giving_up_says_where_and_that_it_may_be_down() -> None:
    wire = Wire(*[GONE] * ATTEMPTS)
    with pytest.raises(Refused, match="is it up") as caught:
        get(wire.connection())
    assert URL in caught.value.detail
    assert len(wire.pauses) == ATTEMPTS - 1


def test_the_gateways_wish_to_wait_is_kept_within_reason() -> None:
    slow = httpx.Response(503, json={"code": "unavailable"}, headers={"Retry-After": "2"})
    never = httpx.Response(503, json={"code": "unavailable"}, headers={"Retry-After": "9999"})
    wire = Wire(slow, never, FINE)
    get(wire.connection())
    assert wire.pauses == [2.0, 5.0]


@pytest.mark.parametrize("code", ["policy_unavailable", "price_disagreement"])
def test_a_decision_is_no_hiccup(code: str) -> None:
    wire = Wire(problem(503, code), FINE)
    with pytest.raises(Refused) as caught:
        get(wire.connection())
    assert caught.value.code == code


def test_a_problem_becomes_a_refusal_with_all_its_facts() -> None:
    answer = problem(
        409,
        "budget_exceeded",
        errors=[{"field": "rounds", "message": "too many", "value": 9, "limit": 5}],
        rules=[{"code": "budget", "field": "rounds"}],
        price={"epsilon": 3.5, "rounds": 9},
        left={"epsilon_remaining": 2.0, "quota_epsilon_remaining": 1.5},
        counter_offer={"job": {"rounds": 5}, "changed": {"rounds": 5}, "epsilon": 1.0},
    )
    with pytest.raises(Refused) as caught:
        get(Wire(answer).connection())
    refusal = caught.value
    assert (refusal.code, refusal.detail) == ("budget_exceeded", "said")
    assert (refusal.errors[0].field, refusal.errors[0].limit) == ("rounds", 5)
    assert refusal.rules == [{"code": "budget", "field": "rounds"}]
    assert (refusal.price, refusal.left) == (3.5, 1.5)
    assert refusal.counter_offer is not None
    assert refusal.counter_offer["job"] == {"rounds": 5}


def test_a_refusal_without_a_price_says_none() -> None:
    refusal = Refused("not_found", "absent")
    facts = (refusal.rules, refusal.price, refusal.left, refusal.counter_offer)
    assert facts == ([], None, None, None)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx.Response(404, text="nginx"), "unavailable"),
        (httpx.Response(404, json=["not", "a", "problem"]), "unavailable"),
        (httpx.Response(200, text="hello"), "unavailable"),
        (problem(418, "teapot"), "conflict"),
    ],
)
def test_strange_answers_are_refusals_too(answer: httpx.Response, code: str) -> None:
    with pytest.raises(Refused) as caught:
        get(Wire(answer).connection())
    assert caught.value.code == code


def test_pages_are_followed_to_the_end_or_the_limit() -> None:
    def pages() -> list[httpx.Response]:
        first = httpx.Response(200, json={"items": [1, 2], "next": "b"})
        return [first, httpx.Response(200, json={"items": [3], "next": None})]

    wire = Wire(*pages())
    assert list(wire.connection().pages("/v1/jobs", status=None)) == [1, 2, 3]
    assert [dict(request.url.params) for request in wire.requests] == [{}, {"after": "b"}]
    assert list(Wire(*pages()).connection().pages("/v1/jobs", limit=1)) == [1]


def test_the_token_travels_and_stays_unseen() -> None:
    wire = Wire(FINE)
    connection = wire.connection()
    get(connection)
    assert wire.requests[0].headers["Authorization"] == "Bearer tok"
    assert "tok" not in repr(connection)


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "ftp://x", "http://", "http://u:p@h"])
def test_bad_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        Connection(url)


def test_speaking_in_clear_to_another_machine_warns() -> None:
    with pytest.warns(UserWarning, match="no TLS"):
        Connection("http://gateway.example:8081")
