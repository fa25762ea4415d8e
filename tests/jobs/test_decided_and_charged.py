"""What the gateway writes down is what its auditor wants: each entry is the decision's own job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import admission, blocks, rounds, sweeps
from kit.db import Database
from policies import revisions
from policies.embedded import EmbeddedEngine
from privacy_gateway import canonical
from privacy_gateway.verify import verify
from tests.accounting.support import export
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market, request

FTRL: dict[str, Any] = {"name": "dp_ftrl", "clip_norm": 1.0}
WANTED: list[dict[str, Any]] = [
    {},
    {"sampling": "fixed_size", "noise_multiplier": 8},
    {"algorithm": {"name": "dp_fedavg", "clip_norm": "adaptive"}},
    {"algorithm": FTRL, "sampling": "none", "noise_multiplier": 9.0, "rounds": 45},
]


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(sqlite_database, engine, tmp_path)


def test_every_entry_is_about_the_job_that_its_policy_was_asked_about(market: Market) -> None:
    ids = [
        admission.submit(
            market.services, RESEARCHER, request(market.dataset_id, **changes), None
        ).job.id
        for changes in WANTED
    ]
    grid = [request(market.dataset_id, noise_multiplier=noise) for noise in (2.5, 3.0)]
    members, _ = sweeps.submit(market.services, RESEARCHER, grid, "grid")
    for job in [*ids, members.jobs[1].id]:
        with market.database.unit_of_work() as session:
            held = rounds.claim(session, job, worker="w", lease_seconds=60, now=market.clock())
        assert held is not None
        assert blocks.next_block(market.services, held)

    with market.database.read() as session:
        decided = revisions.decisions(session, dataset_ids=[market.dataset_id])
    log = [canonical.dumps(_shown(decision), floats=True) for decision in decided]
    report = verify(export(market.database), decisions=log)
    assert report.problems == ()
    assert report.decisions == 6 + 5
    asked = [line.replace(b'"noise_multiplier":1.1', b'"noise_multiplier":1.2') for line in log]
    found = verify(export(market.database), decisions=asked).problems
    assert {problem.kind for problem in found} == {"decision"}


def _shown(decision: dict[str, Any]) -> dict[str, Any]:
    """As `/v1/decisions` shows it, as far as a verifier reads it."""
    names = ("id", "outcome", "code", "fault", "verdict", "input", "input_digest", "digest")
    return {name: decision[name] for name in (*names, "revision_digest", "library_digest")}
