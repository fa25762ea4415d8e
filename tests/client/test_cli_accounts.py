"""The command line and who one is: log-in, token, password, environment."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace

import pytest

from privacy_gateway.cli import credentials
from tests.client.conftest import Run
from tests.gateway.conftest import Gateway


def test_the_token_is_kept_for_its_owner_alone(
    run: Run, as_role: Callable[[str], None], gateway: Gateway
) -> None:
    as_role("researcher")
    file = credentials.path()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = json.loads(file.read_text())["token"]
    seen = run("whoami", "--format", "json")
    assert seen.json["email"] == "researcher@example.org"
    assert token not in seen.out + seen.err
    assert run("logout").code == 0
    assert not file.exists()
    assert run("whoami").code == 4


def test_a_logout_ends_the_token_at_the_gateway_too(
    run: Run, as_role: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_role("researcher")
    stored = credentials.load()
    assert stored is not None
    assert run("logout").err == ""
    monkeypatch.setenv("PRIVACY_GATEWAY_URL", stored.url)
    monkeypatch.setenv("PRIVACY_GATEWAY_TOKEN", stored.token)
    assert run("whoami").code == 4
    assert "no stored login" in run("logout").out
    # A gateway that cannot be told keeps nobody logged in here.
    credentials.save(replace(stored, url="http://127.0.0.1:1"))
    told = run("logout")
    assert (told.code, stored.expires_at in told.err) == (0, True)
    assert credentials.load() is None


def test_a_person_changes_her_password_and_stays_logged_in(
    run: Run, as_role: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_role("researcher")
    monkeypatch.setenv("PRIVACY_GATEWAY_NEW_PASSWORD", "short")
    refused = run("password")
    assert (refused.code, "new_password" in refused.err) == (3, True)
    monkeypatch.setenv("PRIVACY_GATEWAY_NEW_PASSWORD", "another long one")
    assert run("password").code == 0
    assert run("whoami", "--format", "json").json["role"] == "researcher"
    # The present password in the environment is not the present one any more.
    assert run("password").code == 3


def test_the_environment_goes_before_the_stored_login(
    run: Run,
    as_role: Callable[[str], None],
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_role("researcher")
    monkeypatch.setenv("PRIVACY_GATEWAY_URL", gateway.url)
    assert run("whoami", "--format", "json").json["role"] == "researcher"
    monkeypatch.setenv("PRIVACY_GATEWAY_TOKEN", gateway.tokens["auditor"])
    assert run("whoami", "--format", "json").json["role"] == "auditor"
    # A token stored for one gateway is never sent to another.
    monkeypatch.delenv("PRIVACY_GATEWAY_TOKEN")
    monkeypatch.setenv("PRIVACY_GATEWAY_URL", "http://127.0.0.1:1")
    assert run("whoami").code == 4
