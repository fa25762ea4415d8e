"""The allowed region: every point is what a quote of that very request says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import quoting, region
from jobs.region import Axes
from kit.db import Database
from policies import revisions
from policies.embedded import EmbeddedEngine
from policies.engine import Evaluation, Revision
from policies.errors import Fault
from policies.region import Point
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market, policy, request
from tests.support.questions import EXAMPLES, example


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(1) as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(sqlite_database, engine, tmp_path)


def active(market: Market) -> Revision:
    with market.database.read() as session:
        revision = revisions.active(session, market.dataset_id)
    assert revision is not None
    return revision


def quoted(market: Market, wanted: JobRequest, point: Point) -> tuple[float | None, str, set[str]]:
    """ε, standing and rules of a point, as a quote has them."""
    moved = wanted.model_copy(
        update={
            "rounds": point.rounds,
            "noise_multiplier": point.noise_multiplier,
            "clients_per_round": point.clients_per_round,
        }
    )
    try:
        quote = quoting.quote(market.services, RESEARCHER, moved, counter_offer=False)
    except Refused as refused:
        return None, "impossible", {refused.code}
    codes = {rule.code for rule in quote.refusals}
    standing = {"allow": "allowed", "needs_approval": "needs_approval"}.get(quote.verdict)
    if standing is None:
        standing = "over_budget" if codes <= {"budget_exceeded", "quota_exceeded"} else "denied"
    return quote.epsilon, standing, codes


def agrees(market: Market, engine: EmbeddedEngine, wanted: JobRequest, axes: Axes) -> None:
    """Every point of the grid against its quote."""
    swept = region.sweep(market.services, engine, RESEARCHER, active(market), wanted, axes)
    assert len(swept.points) == len(axes.rounds) * len(axes.noise_multipliers) * len(
        axes.clients_per_round
    )
    for point in swept.points:
        epsilon, standing, codes = quoted(market, wanted, point)
        assert (point.epsilon, set(point.codes)) == (epsilon, codes), point
        assert point.standing == standing, point


numbers = st.lists(st.integers(1, 400), min_size=1, max_size=3, unique=True)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rounds=numbers,
    cohorts=st.lists(st.integers(1, 1200), min_size=1, max_size=3, unique=True),
    noise=st.lists(st.floats(0.15, 6.0), min_size=1, max_size=3, unique=True),
    limits=st.tuples(st.integers(5, 400), st.integers(1, 7), st.integers(1, 400)),
    algorithm=st.sampled_from(["dp_fedavg", "dp_ftrl"]),
)
def test_points_are_quotes(
    market: Market,
    engine: EmbeddedEngine,
    rounds: list[int],
    cohorts: list[int],
    noise: list[float],
    limits: tuple[int, int, int],
    algorithm: str,
) -> None:
    most, cap, approved = limits
    markets.let_decide(market, policy(rounds=most, cap=cap, approved=approved))
    wanted = request(market.dataset_id, algorithm={"name": algorithm, "clip_norm": 1.0})
    axes = Axes(tuple(sorted(rounds)), tuple(sorted(noise)), tuple(sorted(cohorts)))
    agrees(market, engine, wanted, axes)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_regions_are_quotes(market: Market, engine: EmbeddedEngine, name: str) -> None:
    markets.let_decide(market, example(name)[0])
    agrees(market, engine, request(market.dataset_id), Axes((5, 60), (0.4, 1.1), (20, 300)))


def test_a_dead_engine_denies_every_point(market: Market, engine: EmbeddedEngine) -> None:
    class Dead(EmbeddedEngine):
        def evaluate_many(
            self, revision: Revision, documents: object, deadline_seconds: float
        ) -> list[Evaluation]:
            assert isinstance(documents, list)
            return [Evaluation(fault=Fault.CRASHED, detail="gone")] * len(documents)

    wanted = request(market.dataset_id)
    axes = Axes((5, 10), (1.0,), tuple(range(20, 60)))
    swept = region.sweep(market.services, Dead(1), RESEARCHER, active(market), wanted, axes)
    assert swept.counts()["denied"] == len(swept.points) == 80


def test_a_grid_is_limited(market: Market, engine: EmbeddedEngine) -> None:
    axes = Axes(tuple(range(1, 2002)), (1.0,), (50,))
    with pytest.raises(Refused) as refused:
        region.sweep(
            market.services, engine, RESEARCHER, active(market), request(market.dataset_id), axes
        )
    assert refused.value.code == "invalid_request"
    assert refused.value.errors[0].field == "axes"
