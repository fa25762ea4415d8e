"""How many jobs the reference budgets take, by submitting them until one is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounting.curve import default_curve, standalone_epsilon
from accounting.mechanism import Mechanism
from jobs import admission
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.support import export
from tests.reference.audit import audit
from tests.support import market as markets
from tests.support.market import RESEARCHER, request


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clients", "cohort", "noise", "rounds", "epsilon", "delta", "least", "by_adding"),
    [
        (1000, 10, 1.0, 100, 8.0, 1e-6, 107, (4, 5)),
        (2000, 71, 1.2, 100, 8.0, 1e-5, 16, (3, 4)),
        (10_000, 10, 0.8, 500, 3.0, 1e-6, 152, (1, 2)),
    ],
    ids=[
        "q.01 z1 T100 in (8, 1e-6)",
        "q.0355 z1.2 T100 in (8, 1e-5)",
        "q.001 z.8 T500 in (3, 1e-6)",
    ],
)
def test_reference_budgets(
    sqlite_database: Database,
    engine: EmbeddedEngine,
    tmp_path: Path,
    clients: int,
    cohort: int,
    noise: float,
    rounds: int,
    epsilon: float,
    delta: float,
    least: int,
    by_adding: tuple[int, int],
) -> None:
    market = markets.open_market(
        sqlite_database, engine, tmp_path, clients=clients, epsilon=epsilon, delta=delta
    )
    wanted = request(
        market.dataset_id, rounds=rounds, clients_per_round=cohort, noise_multiplier=noise
    )
    admitted = 0
    with pytest.raises(Refused) as refusal:
        while True:
            admission.submit(market.services, RESEARCHER, wanted, None)
            admitted += 1
    assert refusal.value.code == "budget_exceeded"
    assert admitted >= least
    assert len(market.entries("reserve")) == admitted
    assert len(audit(sqlite_database).populations[market.population_id].jobs) == admitted
    assert verify(export(sqlite_database)).ok
    # What adding the ε of each job would have let in, by Mironov's conversion and by the best one.
    mechanism = Mechanism("poisson_gaussian", noise, clients, cohort)
    classic = min(
        rounds * divergence + math.log(1 / delta) / (order - 1)
        for order, divergence in zip(*default_curve(mechanism), strict=True)
    )
    best = standalone_epsilon(mechanism, rounds, delta)
    assert (int(epsilon / classic), int(epsilon / best)) == by_adding
    print(f"{admitted} jobs admitted, {by_adding} by adding ε")
