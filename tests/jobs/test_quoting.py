"""Quotes and inverse answers: free, exact, and right at the border."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import admission, inverse, quoting
from jobs.principal import Principal
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway import schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest, SolveFor
from tests.support import market as markets
from tests.support.market import OWNER, RESEARCHER, Market, request


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(sqlite_database, engine, tmp_path)


def accepted(market: Market, wanted: JobRequest) -> bool:
    quote = quoting.quote(market.services, RESEARCHER, wanted, counter_offer=False)
    assert (quote.verdict == "deny") == bool(quote.refusals)
    return quote.verdict == "allow"


def test_a_quote_changes_nothing(market: Market) -> None:
    before = market.balance()
    wanted = request(market.dataset_id)
    first = quoting.quote(market.services, RESEARCHER, wanted)
    second = quoting.quote(market.services, RESEARCHER, wanted)
    assert first == second
    assert market.balance() == before


def test_a_quote_of_an_ordinary_job(market: Market) -> None:
    quote = quoting.quote(market.services, RESEARCHER, request(market.dataset_id))
    assert quote.fits
    assert quote.verdict == "allow"
    assert quote.refusals == []
    assert quote.counter_offer is None
    assert quote.budget_before == 0.0
    assert quote.budget_after is not None
    assert quote.epsilon < quote.budget_after < 8.0
    assert quote.delta == 1e-5
    assert quote.compute["client_updates"] == 1000
    assert quote.compute["parameters"] == 15
    assert len(quote.mechanism["cost_pico_nats"]) == 16


def test_how_many_more_is_how_many_more(market: Market) -> None:
    wanted = request(market.dataset_id, rounds=200)
    for left in range(3, 0, -1):
        assert quoting.quote(market.services, RESEARCHER, wanted).how_many_more == left
        admission.submit(market.services, RESEARCHER, wanted, None)
    last = quoting.quote(market.services, RESEARCHER, wanted)
    assert last.how_many_more == 0
    assert not last.fits


def test_a_refused_quote_says_what_a_submit_would(market: Market) -> None:
    wanted = request(market.dataset_id, rounds=900, purpose="ads")
    quote = quoting.quote(market.services, RESEARCHER, wanted)
    with pytest.raises(Refused) as caught:
        admission.submit(market.services, RESEARCHER, wanted, None)
    assert quote.verdict == "deny"
    said = [rule.model_dump(mode="json", exclude_none=True) for rule in quote.refusals]
    assert said == caught.value.facts["rules"]
    assert quote.epsilon == caught.value.facts["price"]["epsilon"]


def test_the_announcements_price(
    sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    market = markets.open_market(sqlite_database, engine, tmp_path, clients=3)
    wanted = request(market.dataset_id, rounds=10, clients_per_round=2, noise_multiplier=0.05)
    quote = quoting.quote(market.services, RESEARCHER, wanted)
    assert quote.epsilon == pytest.approx(2267.1770956999753, abs=1e-6)
    assert not quote.fits


def test_a_price_beyond_storage_is_refused_by_field(market: Market) -> None:
    wanted = request(market.dataset_id, rounds=900_000, noise_multiplier=0.01)
    with pytest.raises(Refused) as caught:
        quoting.quote(market.services, RESEARCHER, wanted)
    assert caught.value.code == "price_overflow"
    assert [fault.field for fault in caught.value.errors] == ["noise_multiplier", "rounds"]


def test_pld_is_computed_when_asked_for(market: Market) -> None:
    wanted = request(market.dataset_id)
    assert quoting.quote(market.services, RESEARCHER, wanted).epsilon_pld is None
    quote = quoting.quote(market.services, RESEARCHER, wanted, pld=True)
    assert quote.epsilon_pld is not None
    assert 0 < quote.epsilon_pld < quote.epsilon


def test_without_an_engine_a_quote_denies(market: Market) -> None:
    with markets.engine() as gone:
        pass
    quote = quoting.quote(market.with_engine(gone).services, RESEARCHER, request(market.dataset_id))
    assert quote.verdict == "deny"
    assert [rule.code for rule in quote.refusals] == ["policy_unavailable"]
    assert quote.counter_offer is None


def test_an_owner_quotes_on_her_own_data_only(market: Market) -> None:
    wanted = request(market.dataset_id)
    assert quoting.quote(market.services, OWNER, wanted).epsilon > 0
    stranger = Principal("usr_else", "else@example.org", "owner")
    for ask in (quoting.quote, lambda s, p, r: inverse.solve(s, p, r, "rounds")):
        with pytest.raises(Refused) as caught:
            ask(market.services, stranger, wanted)
        assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    ("solve_for", "further"),
    [
        ("rounds", lambda value: value + 1),
        ("noise_multiplier", lambda value: round(value - 1e-4, 4)),
        ("clients_per_round", lambda value: value + 1),
    ],
)
@pytest.mark.parametrize("cap", [7, 5000])
def test_an_inverse_answer_is_admitted_and_one_step_further_refused(
    market: Market, solve_for: SolveFor, further: object, cap: int
) -> None:
    market.activate(markets.policy(cap=cap))
    admission.submit(market.services, RESEARCHER, request(market.dataset_id), None)
    answer = inverse.solve(market.services, RESEARCHER, request(market.dataset_id), solve_for)
    assert answer.job is not None
    assert answer.value is not None
    assert accepted(market, schemas.parse(JobRequest, answer.job))
    beyond = answer.job | {solve_for: further(answer.value)}  # type: ignore[operator]
    assert not accepted(market, schemas.parse(JobRequest, beyond))


def test_an_inverse_answer_obeys_the_policys_own_bound(market: Market) -> None:
    market.activate(markets.policy(rounds=37))
    answer = inverse.solve(market.services, RESEARCHER, request(market.dataset_id), "rounds")
    assert answer.value == 37


def test_nothing_fits_a_policy_that_allows_nothing(market: Market) -> None:
    wanted = request(market.dataset_id, purpose="ads")
    for solve_for in ("rounds", "noise_multiplier", "clients_per_round"):
        answer = inverse.solve(market.services, RESEARCHER, wanted, solve_for)  # type: ignore[arg-type]
        assert answer.value is None
        assert answer.job is None


def test_a_cohort_without_sampling_is_no_question(market: Market) -> None:
    wanted = request(market.dataset_id, sampling="none", clients_per_round=1000)
    with pytest.raises(Refused) as caught:
        inverse.solve(market.services, RESEARCHER, wanted, "clients_per_round")
    assert caught.value.errors[0].field == "solve_for"
