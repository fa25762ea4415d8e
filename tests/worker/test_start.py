"""A worker does not begin on a database that is older than its witness, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import schema
from jobs.settings import Settings
from kit import confinement
from kit.db import Database
from privacy_gateway import checkpoint
from worker import app
from worker.start import Ends, Execute
from worker.training import confine
from worker.training.confine import Bounds


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


def test_a_machine_that_cannot_close_a_sandbox_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(confinement, "lacking", lambda: ("Landlock",))

    assert app.main(settings) == app.REFUSED_TO_START
    assert "no Landlock" in capsys.readouterr().err
    with pytest.raises(OSError, match="cannot close"):
        app.start_of(settings)(Bounds(1, 1, 1, 1), Ends(0, 0, 0), deadline=0)


def test_only_the_operators_word_makes_it_go_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(confinement, "lacking", lambda: ("Landlock",))
    willing = settings.model_copy(update={"insecure_sandbox": True})

    assert app.main(willing) == app.REFUSED_TO_START  # for want of tables, as below
    told = capsys.readouterr().err
    assert "insecure_sandbox" in told
    assert "no Landlock" not in told
    assert app.start_of(willing) == Execute(bubblewrap=True, insecure=True)


def test_a_state_directory_that_sandboxes_could_read_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(confine, "readable", lambda: [settings.state_dir.parent])

    assert app.main(settings) == app.REFUSED_TO_START
    assert "sandboxes can read" in capsys.readouterr().err


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
