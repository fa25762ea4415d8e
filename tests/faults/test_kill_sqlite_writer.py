"""A process that writes SQLite is killed under load, again and again: what it was told is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.db import Database
from privacy_gateway.verify import verify
from tests.accounting.support import export
from tests.reference import fleet, traffic
from tests.reference.audit import audit
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow


def test_kill_a_writer_four_times(sqlite_database: Database, tmp_path: Path) -> None:
    names = traffic.open_all(sqlite_database, 3)
    url = sqlite_database.url.render_as_string(hide_password=False)
    survivor, told = tmp_path / "survivor", list[str]()
    load = {"count": 4, "operations": 10**9}
    with fleet.process(url, names, survivor, first=900, **load) as other:
        for kill in range(4):
            path = tmp_path / f"victim-{kill}"
            with fleet.process(url, names, path, first=100 * kill, **load) as victim:
                wait_until(lambda p=path: len(fleet.told_in(p)) > 15, what="a load")
                victim.kill()
                victim.wait()
            # The survivor goes on: a dead writer's lock and half a transaction are nobody's.
            heard = len(fleet.told_in(survivor))
            wait_until(lambda n=heard: len(fleet.told_in(survivor)) > n + 5, what="the other one")
            told += fleet.told_in(path)
        other.kill()
        other.wait()
    told += fleet.told_in(survivor)
    found = audit(sqlite_database, told)
    assert found.entries >= len(told) + len(names) > 80
    assert verify(export(sqlite_database)).ok
