"""The story of the README, played with real processes on real digits."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from gateway.demo import server, story

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def test_the_story_comes_out_as_told(tmp_path: Path) -> None:
    """Refused at its price, countered, trained, spent, verified, damage located."""
    folder = server.fresh_state(tmp_path / "demo")
    with server.gateway(folder) as running:
        outcome = story.tell(Console(record=True, quiet=True), running, folder)
    assert outcome.announced_price == pytest.approx(2267.18, abs=0.01)
    assert outcome.accuracy >= 0.80
    assert outcome.jobs_until_refused >= 1
    assert outcome.audit_ok
    assert outcome.damage_found[0].kind == "altered"


def test_a_demo_never_removes_somebodys_state(tmp_path: Path) -> None:
    """Only a folder that a demo made is made anew."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "gateway.sqlite3").write_text("precious")
    with pytest.raises(server.Refused, match="not a demo's"):
        server.fresh_state(mine)
    assert (mine / "gateway.sqlite3").read_text() == "precious"
