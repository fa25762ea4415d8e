"""Settings come from the environment, secrets also by file, and never by guess."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.settings import Settings, load
from privacy_gateway.errors import Refused


def test_one_machine_needs_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "OPA_URL", "PRIVACY_GATEWAY_STATE"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings()
    assert settings.database() == "sqlite:///state/gateway.sqlite3"
    assert (settings.redis_url, settings.opa_url) == ("", "")


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRIVACY_GATEWAY_STATE", str(tmp_path))
    monkeypatch.setenv("OPA_URL", "http://opa:8181")
    monkeypatch.setenv("PRIVACY_GATEWAY_MINIMUM_NOISE_MULTIPLIER", "0.5")
    settings = Settings()
    assert settings.state_dir == tmp_path
    assert settings.opa_url == "http://opa:8181"
    assert settings.minimum_noise_multiplier == 0.5


def test_a_secret_comes_by_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://gateway:hidden@db/gateway\n")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("DATABASE_URL_FILE", str(secret))
    assert Settings().database() == "postgresql://gateway:hidden@db/gateway"


def test_both_ways_at_once_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://a")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="not both"):
        Settings()


def test_what_is_wrong_is_told_as_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRIVACY_GATEWAY_ROUNDS_PER_BLOCK", "many")
    with pytest.raises(Refused) as caught:
        load(Settings)
    assert caught.value.errors[0].field == "rounds_per_block"
    monkeypatch.setenv("PRIVACY_GATEWAY_ROUNDS_PER_BLOCK", "3")
    assert load(Settings, {"state_dir": tmp_path}).state_dir == tmp_path
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "absent"))
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(Refused, match="absent"):
        load(Settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MINIMUM_CLIENTS_PER_ROUND", "0"),
        ("POLICY_DEADLINE_SECONDS", "0"),
        ("ROUNDS_PER_BLOCK", "many"),
    ],
)
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"PRIVACY_GATEWAY_{name}", value)
    with pytest.raises(ValidationError):
        Settings()
