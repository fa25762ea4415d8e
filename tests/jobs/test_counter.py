"""Counter-offers: accepted when submitted, and no further from the request than needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting import ledger
from jobs import admission, quoting
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway import schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import CounterOffer, Direction, JobRequest
from tests.support import market as markets
from tests.support.market import OWNER, RESEARCHER, Market, request

MINIMUMS = """package clinic

default decision := {"allow": false, "deny": set(), "approvals": set(), "obligations": set()}

decision := {
	"allow": count(refusals) == 0,
	"deny": refusals,
	"approvals": set(),
	"obligations": set(),
}

refusals contains {
	"code": "noise_too_small",
	"field": "noise_multiplier",
	"message": "at least 1.25",
	"limit": 1.25,
} if {
	not input.derived.noise_multiplier_ppm >= 1250000
}

refusals contains {
	"code": "cohort_too_small",
	"field": "clients_per_round",
	"message": "at least 100",
	"limit": 100,
} if {
	input.job.clients_per_round < 100
}

refusals contains {
	"code": "purpose_unknown",
	"field": "purpose",
	"message": "only research",
	"limit": "research",
} if {
	input.job.purpose != "research"
}
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(sqlite_database, engine, tmp_path)


def offer(market: Market, **changes: Any) -> CounterOffer | None:
    wanted = request(market.dataset_id, **changes)
    return quoting.quote(market.services, RESEARCHER, wanted).counter_offer


def submit(market: Market, job: dict[str, Any]) -> admission.Outcome:
    return admission.submit(market.services, RESEARCHER, schemas.parse(JobRequest, job), None)


def test_the_announcements_call_gets_an_offer_that_passes(
    sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    market = markets.open_market(sqlite_database, engine, tmp_path, clients=3)
    call = request(market.dataset_id, rounds=10, clients_per_round=2, noise_multiplier=0.05)
    with pytest.raises(Refused) as caught:
        admission.submit(market.services, RESEARCHER, call, None)
    said = caught.value.facts["counter_offer"]

    assert said["epsilon"] <= 8
    assert set(said["changed"]) <= {"rounds", "clients_per_round", "noise_multiplier"}
    assert said["job"] == call.model_dump(mode="json") | said["changed"]
    assert submit(market, said["job"]).job.status == "queued"


def test_an_offer_moves_one_number_as_little_as_it_takes(market: Market) -> None:
    found = offer(market, rounds=400, noise_multiplier=0.9)
    assert found is not None
    assert len(found.changed) == 1
    (name, value), *_ = found.changed.items()
    back = {"rounds": 1, "clients_per_round": 1, "noise_multiplier": -1e-4}[name]
    nearer = found.job | {name: round(value + back, 4) if name == "noise_multiplier" else value + 1}
    quote = quoting.quote(
        market.services, RESEARCHER, schemas.parse(JobRequest, nearer), counter_offer=False
    )
    assert quote.verdict == "deny"


def test_an_offer_obeys_the_owners_minimums(market: Market) -> None:
    market.activate(MINIMUMS)
    found = offer(market, clients_per_round=20, noise_multiplier=0.5)
    assert found is not None
    assert found.changed == {"clients_per_round": 100, "noise_multiplier": 1.25}
    assert submit(market, found.job).job.status == "queued"


def test_an_offer_obeys_the_floors(market: Market) -> None:
    market.activate(markets.policy(cap=5000))
    found = offer(market, clients_per_round=1, rounds=1)
    assert found is not None
    assert found.changed == {"clients_per_round": 2}


LIBRARY = """package clinic

import data.gateway.answer
import data.gateway.bounds
import data.gateway.price

deny contains price.job_at_most(6 * price.one)

deny contains bounds.noise_at_least_ppm(1250000)

deny contains bounds.sampling_rate_at_most_ppm(20500)

decision := answer.of(deny, set(), set())
"""


def test_the_librarys_denials_are_in_the_units_of_the_request(market: Market) -> None:
    market.activate(LIBRARY)
    wanted = request(market.dataset_id, rounds=2000, noise_multiplier=0.4)
    quote = quoting.quote(market.services, RESEARCHER, wanted)
    said = {rule.code: (rule.field, rule.value, rule.limit) for rule in quote.refusals}
    assert said["noise_below_limit"] == ("noise_multiplier", 0.4, 1.25)
    assert said["sampling_rate_above_limit"] == ("clients_per_round", 50, 20)
    assert said["price_above_limit"] == ("epsilon", quote.epsilon, 6.0)

    found = quote.counter_offer
    assert found is not None
    assert found.changed["clients_per_round"] == 20
    assert found.changed["noise_multiplier"] >= 1.25
    assert submit(market, found.job).job.status == "queued"


def test_no_offer_where_no_number_helps(market: Market) -> None:
    assert offer(market, purpose="ads") is None
    assert offer(market, purpose="ads", rounds=900) is None


def test_no_offer_on_a_frozen_budget(market: Market) -> None:
    with market.database.unit_of_work() as session:
        ledger.freeze(
            session,
            population_id=market.population_id,
            reason="incident",
            actor_id=OWNER.id,
            now=market.clock(),
        )
    assert offer(market, rounds=900) is None


def test_no_offer_from_an_exhausted_budget_is_wrong(market: Market) -> None:
    market.activate(markets.policy(cap=5000))
    for _ in range(12):
        found = offer(market, rounds=5000)
        if found is None:
            break
        assert submit(market, found.job).job.status == "queued"
    balance = market.balance()
    assert any(held <= limit for held, limit in zip(balance.reserved, balance.limits, strict=True))


@pytest.fixture(params=["capped", "bounded"])
def either_market(
    request: pytest.FixtureRequest,
    sqlite_database: Database,
    engine: EmbeddedEngine,
    tmp_path: Path,
) -> Market:
    """A market under a policy with a price cap, or with minimums."""
    source = markets.policy() if request.param == "capped" else MINIMUMS
    return markets.open_market(sqlite_database, engine, tmp_path, source=source)


def one_step_back(field: Direction, knob: str, asked: JobRequest) -> float:
    """The offered number, one step nearer to what was asked for."""
    value = field.changed[knob]
    wanted: float = getattr(asked, knob)
    step = 1e-4 if knob == "noise_multiplier" else 1
    if abs(wanted - value) < step:
        return wanted  # what was asked for need not lie on the grid
    return round(value + (step if wanted > value else -step), 4)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rounds=st.integers(1, 3000), cohort=st.integers(1, 1000), noise=st.floats(0.2, 4.0))
def test_every_offer_is_accepted_and_one_step_back_is_refused(
    either_market: Market, rounds: int, cohort: int, noise: float
) -> None:
    market = either_market
    asked = request(
        market.dataset_id, rounds=rounds, clients_per_round=cohort, noise_multiplier=noise
    )
    found = quoting.quote(market.services, RESEARCHER, asked).counter_offer
    if found is None:
        return
    assert found.directions[0].changed == found.changed
    for direction in found.directions:
        passing = asked.model_copy(update=direction.changed)
        quote = quoting.quote(market.services, RESEARCHER, passing)
        assert (quote.verdict, quote.fits, quote.epsilon) == ("allow", True, direction.epsilon)
        for knob in direction.changed:
            back = one_step_back(direction, knob, asked)
            nearer = asked.model_copy(update=direction.changed | {knob: back})
            refused = quoting.quote(market.services, RESEARCHER, nearer, counter_offer=False)
            assert refused.verdict == "deny", (direction.changed, knob, back)


def test_an_offer_is_made_in_each_free_direction(market: Market) -> None:
    asked = request(market.dataset_id, rounds=400, noise_multiplier=0.9)
    found = quoting.quote(market.services, RESEARCHER, asked).counter_offer
    assert found is not None
    moved = [set(direction.changed) for direction in found.directions]
    assert sorted(moved, key=str) == [{"clients_per_round"}, {"noise_multiplier"}, {"rounds"}]


def test_what_the_policy_nails_down_is_the_same_in_each_direction(market: Market) -> None:
    market.activate(MINIMUMS)
    asked = request(market.dataset_id, clients_per_round=20, rounds=2000, noise_multiplier=1.25)
    found = quoting.quote(market.services, RESEARCHER, asked).counter_offer
    assert found is not None
    assert all(direction.changed["clients_per_round"] >= 100 for direction in found.directions)
    assert len(found.directions) > 1
