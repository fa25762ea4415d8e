"""Accounts and tokens: who gets in, for how long, and what is kept of a secret."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa

from gateway.tables import Token, User
from kit.clock import utc_now
from tests.gateway.conftest import PASSWORD, Gateway


def _login(house: Gateway, email: str, password: str = PASSWORD) -> dict[str, str]:
    body = {"email": email, "password": password}
    answer: dict[str, str] = house.ok("owner", "POST", "/v1/login", json=body)
    return answer


def test_login_gives_a_token_that_works(gateway: Gateway) -> None:
    answer = _login(gateway, "Researcher@Example.ORG")

    assert answer["role"] == "researcher"
    gateway.tokens["again"] = answer["token"]
    assert gateway.ok("again", "GET", "/v1/me")["email"] == "researcher@example.org"


def test_every_failed_login_looks_alike(gateway: Gateway) -> None:
    with gateway.services.database.unit_of_work() as session:
        session.get_one(User, gateway.ids["auditor"]).disabled_at = 1
    answers = [
        gateway.refused(None, "POST", "/v1/login", json={"email": email, "password": password})
        for email, password in (
            ("owner@example.org", "wrong password"),
            ("nobody@example.org", PASSWORD),
            ("auditor@example.org", PASSWORD),
        )
    ]

    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["code"] == "unauthenticated"
    assert gateway.refused("auditor", "GET", "/v1/me")["code"] == "unauthenticated"


def test_neither_password_nor_token_is_stored(gateway: Gateway) -> None:
    token = _login(gateway, "owner@example.org")["token"]

    with gateway.services.database.read() as session:
        users = session.scalars(sa.select(User)).all()
        tokens = session.scalars(sa.select(Token)).all()
    text = repr([row.model_dump() for row in (*users, *tokens)])

    assert token not in text
    assert PASSWORD not in text
    assert all(user.password_hash.startswith("$argon2id$") for user in users)


def test_a_token_can_be_revoked_at_once_by_its_owner_or_an_administrator(gateway: Gateway) -> None:
    made = gateway.ok("owner", "POST", "/v1/tokens", json={"label": "script", "hours": 2.0})
    gateway.tokens["script"] = made["token"]
    assert gateway.ok("script", "GET", "/v1/me")["role"] == "owner"
    listed = gateway.ok("owner", "GET", "/v1/tokens")["items"]
    assert made["id"] in {token["id"] for token in listed}
    assert all(token["token"] is None for token in listed)

    hidden = gateway.refused("researcher", "DELETE", f"/v1/tokens/{made['id']}")
    assert hidden["code"] == "not_found"
    assert gateway.ok("script", "GET", "/v1/me")
    gateway.ok("admin", "DELETE", f"/v1/tokens/{made['id']}")

    assert gateway.refused("script", "GET", "/v1/me")["code"] == "unauthenticated"


def test_ones_own_password_is_changed_by_who_knows_it_and_ends_every_token(
    gateway: Gateway,
) -> None:
    path, new = "/v1/me/password", "a better password"
    wrong = {"password": "guessed it", "new_password": new}
    refused = gateway.refused("owner", "POST", path, json=wrong)
    assert (refused["status"], refused["errors"][0]["field"]) == (422, "password")
    short = gateway.refused("owner", "POST", path, json=wrong | {"new_password": "short"})
    assert short["errors"][0]["field"] == "new_password"
    assert "guessed" not in str([refused, short])
    gateway.tokens["script"] = gateway.ok("owner", "POST", "/v1/tokens", json={"label": "s"})[
        "token"
    ]

    gateway.ok("owner", "POST", path, json={"password": PASSWORD, "new_password": new})

    for name in ("owner", "script"):
        assert gateway.refused(name, "GET", "/v1/me")["code"] == "unauthenticated"
    old = {"email": "owner@example.org", "password": PASSWORD}
    assert gateway.refused(None, "POST", "/v1/login", json=old)["code"] == "unauthenticated"
    assert _login(gateway, "owner@example.org", new)["role"] == "owner"
    assert gateway.ok("researcher", "GET", "/v1/me")


def test_a_token_ends_by_itself(gateway: Gateway) -> None:
    later = replace(gateway.services, clock=lambda: utc_now() + timedelta(hours=2))
    assert gateway.ok("owner", "GET", "/v1/me")

    gateway.app.state.services = later

    assert gateway.refused("owner", "GET", "/v1/me")["code"] == "unauthenticated"


def test_an_administrator_makes_accounts_and_an_address_is_taken_once(gateway: Gateway) -> None:
    body = {"email": "Ada@Example.org", "password": "analytical engine", "role": "researcher"}
    made = gateway.ok("admin", "POST", "/v1/users", json=body)
    assert made["email"] == "ada@example.org"
    assert "password" not in made

    taken = gateway.refused("admin", "POST", "/v1/users", json=body | {"email": "ADA@example.org"})
    assert (taken["status"], taken["errors"][0]["field"]) == (409, "email")
    assert _login(gateway, "ada@example.org", "analytical engine")["role"] == "researcher"

    for change, field in (
        ({"password": "short"}, "password"),
        ({"role": "root"}, "role"),
        ({"email": "nobody"}, "email"),
        ({"id": "usr_1"}, "id"),
    ):
        problem = gateway.refused("admin", "POST", "/v1/users", json=body | change)
        assert problem["errors"][0]["field"] == field
        assert "analytical engine" not in str(problem)


def test_accounts_are_paged(gateway: Gateway) -> None:
    seen: list[str] = []
    after = ""
    while True:
        page = gateway.ok("admin", "GET", f"/v1/users?limit=3{after}")
        seen += [user["role"] for user in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"

    assert sorted(seen) == sorted(["admin", "owner", "researcher", "auditor"])
