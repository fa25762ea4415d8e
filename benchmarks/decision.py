"""What does one decision cost, and does it grow with history?

Without the database: the filter on a balance that 1 or 1e5 reservations made. With it: the quote
and the reservation on SQLite beside as many old jobs and ledger entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from accounting import curve, ledger
from accounting import filter as admission_filter
from accounting.budget import Terms, terms_of
from accounting.plan import TrainingPlan
from benchmarks import history
from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Sizes, Spread, alternate, each, spread
from jobs import quoting
from tests.support.market import Market, request

HISTORY = 100_000
LONG_HISTORY = 1_000_000


def ask(sizes: Sizes) -> Iterator[Table]:
    """The decision without a database, then what stands around it."""
    yield _filter(sizes)
    yield _prices(sizes)
    yield _stored(sizes)


def _filter(sizes: Sizes) -> Table:
    table = Table(
        "decision", "the filter alone, without a database", ("history", "µs", "to history 1")
    )
    terms = terms_of(100 * 10**9, 1e-5)
    cost = curve.price(TrainingPlan(1000, 2, 1, 50.0).mechanism).total(10)
    balances = {count: _spent(terms, cost, count) for count in (1, 1000, HISTORY)}

    def decide(spent: tuple[int, ...]) -> None:
        admission_filter.admits(terms.limits, spent, spent, cost)
        admission_filter.add(spent, cost)

    acts = {str(count): partial(decide, spent) for count, spent in balances.items()}
    taken = alternate(acts, runs=sizes.runs * 20, inner=200)
    for name, found in taken.items():
        table.add(f"{int(name):,}", found.median * 1e6, found.median / taken["1"].median)
    table.notes.append("admits and the new vector of 16 integers; target ≤ 100 µs, flat")
    return table


def _spent(terms: Terms, cost: tuple[int, ...], count: int) -> tuple[int, ...]:
    """A balance after so many reservations."""
    spent = admission_filter.zero()
    for _ in range(count):
        spent = admission_filter.add(spent, cost)
    return spent


def _prices(sizes: Sizes) -> Table:
    table = Table("price", "the price of a mechanism, two engines", ("what", "p50 ms", "p95 ms"))
    count = 10 if sizes.quick else 40
    plans = [TrainingPlan(10_000, 37, 100, 0.7 + number / 997) for number in range(count + 1)]
    curve.price(plans.pop().mechanism)  # what is made once stays out of it
    _row(table, "price cold", each([partial(curve.price, p.mechanism) for p in plans]))
    again = spread(lambda: curve.price(plans[0].mechanism), runs=200)
    _row(table, "price warm", again)
    stand_alone = [partial(curve.standalone_epsilon, p.mechanism, p.rounds, 1e-5) for p in plans]
    _row(table, "stand-alone ε after it", each(stand_alone))
    return table


def _stored(sizes: Sizes) -> Table:
    table = Table(
        "quote",
        "quote and reservation on SQLite with the embedded engine",
        ("what", "history", "p50 ms", "p95 ms", "to history 1"),
    )
    long = LONG_HISTORY if sizes.full else HISTORY // 50 if sizes.quick else HISTORY
    runs = 20 if sizes.quick else 100
    first: dict[str, float] = {}
    for count in (1, long):
        with (
            markets.scratch() as folder,
            markets.sqlite(folder) as database,
            markets.engine(1) as engine,
        ):
            market = markets.open_market(database, engine, folder)
            history.age(market, count)
            for what, found in _measured(market, runs).items():
                p50, p95 = found.median * 1e3, found.percentile(95) * 1e3
                table.add(what, count, p50, p95, p50 / first.setdefault(what, p50))
    table.notes.append(
        "history: jobs of this researcher and ledger entries of this population already stored; "
        "cold: a mechanism never priced before; targets: warm ≤ 2 ms, cold ≤ 100 ms p95"
    )
    return table


def _measured(market: Market, runs: int) -> dict[str, Spread]:
    """Quotes and a reservation that is rolled back."""
    me, services = markets.researcher(1), market.services
    warm = request(market.dataset_id)

    def cold() -> object:
        noise = 1.1 + next(markets.SERIAL) / 9973
        return quoting.quote(services, me, request(market.dataset_id, noise_multiplier=noise))

    return {
        "quote warm": spread(lambda: quoting.quote(services, me, warm), runs=runs),
        "quote cold": spread(cold, runs=max(10, runs // 5)),
        "ledger.reserve, no commit": spread(lambda: _reserve_and_forget(market), runs=runs),
    }


def _reserve_and_forget(market: Market) -> None:
    price = curve.price(TrainingPlan(1000, 2, 1, 50.0).mechanism)
    with market.database.read() as session:
        balance = ledger.lock(session, [market.population_id])[market.population_id]
        ledger.reserve(
            session,
            balance,
            job_id=f"job_{next(markets.SERIAL)}",
            researcher_id="usr_01",
            price=price,
            rounds=10,
            facts={"actor": "usr_01"},
            now=market.clock(),
            lease_expires_at=market.clock() + timedelta(hours=1),
        )


def _row(table: Table, what: str, found: Spread) -> None:
    table.add(what, found.median * 1e3, found.percentile(95) * 1e3)
