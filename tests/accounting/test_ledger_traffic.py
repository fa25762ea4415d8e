"""Ten thousand random operations from sixteen clients: never one admission too many."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from kit.db import Database
from privacy_gateway.verify import verify
from tests.accounting.support import export
from tests.reference import fleet, traffic
from tests.reference.audit import audit
from tests.reference.script import Script

CLIENTS = 16
OPERATIONS = 10_000
# More, and the budgets are used up: what follows would be refusals alone.
OPERATIONS_A_BUDGET = 3000


def storm(database: Database, operations: int, folder: Path, seed: int) -> list[str]:
    """Sixteen clients; on PostgreSQL half of them in two processes of their own."""
    names = traffic.open_all(database, max(3, operations // OPERATIONS_A_BUDGET))
    if database.is_sqlite:
        crew = fleet.clients(CLIENTS, names, seed=seed)
        fleet.run(database, crew, operations)
        return [seal for client in crew for seal in client.acknowledged]
    url = database.url.render_as_string(hide_password=False)
    share = operations // CLIENTS * 4
    with (
        fleet.process(url, names, folder / "1", first=8, count=4, operations=share, seed=seed) as a,
        fleet.process(
            url, names, folder / "2", first=12, count=4, operations=share, seed=seed
        ) as b,
    ):
        crew = fleet.clients(8, names, seed=seed)
        fleet.run(database, crew, 2 * share)
        assert (a.wait(1800), b.wait(1800)) == (0, 0)
    told = fleet.told_in(folder / "1") + fleet.told_in(folder / "2")
    return told + [seal for client in crew for seal in client.acknowledged]


def check(database: Database, told: list[str], operations: int) -> None:
    found = audit(database, told)
    # Every acknowledgement is one entry, and every entry but the opening ones was acknowledged.
    assert len(told) == len(set(told)) == found.entries - len(found.populations)
    assert found.entries > operations / 4
    assert found.charged_rounds() > operations / 20
    assert any(one.quotas for one in found.populations.values())
    report = verify(export(database))
    assert report.ok, report.problems[:3]


@pytest.mark.slow
def test_ten_thousand_operations_from_sixteen_clients(database: Database, tmp_path: Path) -> None:
    check(database, storm(database, OPERATIONS, tmp_path, seed=1), OPERATIONS)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_soak_of_a_hundred_thousand(database: Database, tmp_path: Path) -> None:
    check(database, storm(database, 100_000, tmp_path, seed=2), 100_000)


@pytest.mark.soak
@pytest.mark.timeout(14_400)
def test_soak_of_a_million_in_step_with_the_reference() -> None:
    """Both ledgers are asked a million times, and give the same answer each time."""
    operations = int(os.environ.get("SOAK_OPERATIONS", "1000000"))
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/ledger.db")
        database.create_all()
        script = Script(populations=max(2, operations // 5000), seed=3)
        with database.unit_of_work() as session:
            script.open(session)
        begun = time.monotonic()
        left = operations
        while left:
            batch = min(left, script.random.randrange(1, 200))
            left -= batch
            with database.unit_of_work() as session:
                for _ in range(batch):
                    script.step(session)
        seconds = time.monotonic() - begun
        print(f"\n{operations} operations in {seconds:.0f} s: {dict(script.pair.told)}")
        with database.read() as session:
            script.pair.compare(session)
        found = audit(database)
        print(f"{found.entries} entries audited, {found.charged_rounds()} rounds charged")
        report = verify(export(database))
        assert report.ok, report.problems[:3]
        database.close()
