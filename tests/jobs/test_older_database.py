"""A database that becomes an older one under a running gateway: a lagging replica, say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accounting import log, witness
from jobs import admission, blocks, rounds, sweeps
from jobs.notary import Notary
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway import checkpoint
from privacy_gateway.errors import Refused
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market, request


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(database, engine, tmp_path)


def seen_more(market: Market) -> None:
    """The witness of a life in which one more entry was signed."""
    path = market.services.settings.witness()
    with market.database.read() as session:
        newest = log.latest(session)
    assert newest is not None
    more = checkpoint.Checkpoint(newest.origin, newest.size + 1, b"r" * 32)
    assert witness.write(path, checkpoint.seal(more, [checkpoint.new_signer(newest.origin)]))


def test_nothing_is_spent_from_a_database_that_forgot(market: Market) -> None:
    notary = Notary(market.services)
    wanted = request(market.dataset_id)
    job = admission.submit(market.services, RESEARCHER, wanted, None).job.id
    with market.database.unit_of_work() as session:
        held = rounds.claim(session, job, worker="w", lease_seconds=60, now=market.clock())
    assert held is not None
    assert blocks.next_block(market.services, held)
    states = [_after(notary)]
    was = market.balance()

    seen_more(market)

    states.append(_after(notary))
    assert states == ["ok", "contradicts"], "though nothing is left to sign"
    with pytest.raises(blocks.PolicyDown):
        blocks.next_block(market.services, held)
    for act in (
        lambda: admission.submit(market.services, RESEARCHER, wanted, None),
        lambda: sweeps.submit(market.services, RESEARCHER, [wanted, wanted], None),
    ):
        with pytest.raises(Refused) as caught:
            act()
        assert (caught.value.code, caught.value.facts["reason"]) == ("unavailable", "rolled_back")
    assert market.balance() == was

    market.services.settings.witness().unlink()
    assert admission.submit(market.services, RESEARCHER, wanted, None).job.status == "queued"


def _after(notary: Notary) -> str:
    notary.step()
    return notary.state
