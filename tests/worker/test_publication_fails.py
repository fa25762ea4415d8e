"""When publishing itself fails: what is told, what is kept, and that nothing is there twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from jobs import blocks, events
from jobs import releases as publishing
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support import market as support
from tests.support.market import Market
from tests.support.trainer import Stable
from tests.worker.coordinated import (
    assert_settled,
    claimed,
    job,
    published,
    run,
    submit,
    told,
    waiting,
)
from worker.aggregate import ServerState
from worker.launcher import FailureCode, SandboxFailed
from worker.publication import Publication


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    """Blocks of five rounds, in which nothing is published before the end."""
    return waiting(support.open_market(database, engine, tmp_path), 3600.0)


def crash_in_the_third(number: int) -> None:
    if number == 3:
        raise SandboxFailed(FailureCode.CRASHED)


@pytest.mark.parametrize(
    "trouble",
    [OperationalError("INSERT", None, Exception("server closed the connection")), MemoryError()],
    ids=["database down", "no memory"],
)
def test_a_publication_that_fails_does_not_hide_a_failed_sandbox(
    market: Market, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """An attempt that people's data may have ended counts as one, see `events.attempt_failed`."""
    job_id = submit(market)

    def down(*_: object, **__: object) -> bool:
        raise trouble

    with monkeypatch.context() as patched:
        patched.setattr("jobs.releases.publish", down)
        assert run(market, job_id, Stable(crash_in_the_third)) == "returned"
    assert published(market, job_id) == []
    with market.database.read() as session:
        assert events.attempt_failed(session, job_id)


@pytest.mark.parametrize(("times", "kept"), [(1, [1, 2]), (2, [1])], ids=["once", "for longer"])
@pytest.mark.parametrize(
    ("trouble", "shown"),
    [
        (OperationalError("INSERT", None, Exception("connection reset")), "database_down"),
        (MemoryError(), events.FAILED),
    ],
    ids=["database down", "no memory"],
)
def test_a_publication_that_fails_meanwhile_is_told_as_what_it_is(
    market: Market,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
    shown: str,
    times: int,
    kept: list[int],
) -> None:
    """The round under way is dropped with its sandbox, what had waited is tried once more."""
    job_id, real, tried = submit(market), publishing.publish, list[int]()

    def fail(*given: Any, **named: Any) -> bool:
        tried.append(named["round_number"])
        if 0 < tried.count(2) <= times:
            raise trouble
        return real(*given, **named)

    stable = Stable()
    with monkeypatch.context() as patched:
        patched.setattr("jobs.releases.publish", fail)
        assert run(waiting(market, 0.0), job_id, stable) == "returned"
    assert (stable.rounds, tried) == ([1, 2, 3], [1, 2, 2])
    assert published(market, job_id) == kept
    assert told(market, job_id, "queued")[-1] == {"reason": shown}
    assert run(market, job_id, Stable()) == "ended"
    assert job(market, job_id).status == "completed"
    assert_settled(market)


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["within the block", "at its end"])
def test_a_publication_whose_answer_was_lost_is_there_once(
    market: Market, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """It was committed: sent again, it changes nothing, and the attempt is over all the same."""
    held = claimed(market)
    blocks.next_block(market.services, held)
    publication = Publication(waiting(market, seconds).services, held)
    real, lost = Database.unit_of_work, [OperationalError("COMMIT", None, Exception("reset"))]

    @contextmanager
    def forgetful(self: Database) -> Iterator[Any]:
        with real(self) as session:
            yield session
        if lost:
            raise lost.pop()

    monkeypatch.setattr(Database, "unit_of_work", forgetful)
    with pytest.raises(OperationalError), publication.block():
        publication.take(ServerState([np.ones(3, np.float32)], step=1), 1, None)
        publication.catch_up()
    assert lost == []
    assert published(market, held.job_id) == [1]
    assert [body["round"] for body in told(market, held.job_id, "published")] == [1]
    assert job(market, held.job_id).rounds_published == 1
