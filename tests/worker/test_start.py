"""A worker does not begin on a database that is older than its witness, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import schema
from jobs.settings import Settings
from kit.db import Database
from privacy_gateway import checkpoint
from worker import app


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Nothing listens at the broker's address; a refused worker never asks."""
    return Settings(
        state_dir=tmp_path / "state", redis_url="redis://127.0.0.1:1/0", policy_processes=1
    )


def test_an_old_backup_is_refused(settings: Settings) -> None:
    settings.state_dir.mkdir()
    database = Database(settings.database())
    schema.upgrade(database)
    database.close()
    settings.witness().parent.mkdir()
    seen = checkpoint.Checkpoint("privacy-gateway/test", 5, b"r" * 32)
    note = checkpoint.seal(seen, [checkpoint.new_signer("privacy-gateway/test")])
    settings.witness().write_text(note)

    assert app.main(settings) == app.REFUSED_TO_START


def test_a_database_without_tables_is_refused(settings: Settings) -> None:
    assert app.main(settings) == app.REFUSED_TO_START


def test_a_setting_that_is_wrong_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRIVACY_GATEWAY_ROUNDS_PER_BLOCK", "many")
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 3
    told = capsys.readouterr().err
    assert "rounds_per_block" in told
    assert "Traceback" not in told
