"""With injected keys a job is the same bits on one thread and on two, run through or resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jobs import runnable
from tests.audit.bench import Bench, Keys, Watched, people
from tests.support import market as markets
from worker.zygote import Zygote

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

ROUNDS = 5
ALGORITHMS: dict[str, dict[str, Any]] = {
    "dp_fedavg": {"name": "dp_fedavg", "local_epochs": 2},
    "dp_fedsgd": {"name": "dp_fedsgd"},
    "dp_fedprox": {"name": "dp_fedprox", "proximal_mu": 0.5},
    "dp_ftrl": {"name": "dp_ftrl"},
}
TREE = {"sampling": "none", "noise_multiplier": 4.0}
OPTIMIZERS = ("sgd", "momentum", "adam", "adagrad", "yogi")
# Every algorithm once, every server optimizer at least once.
ROWS = [
    ("dp_fedavg", "sgd"),
    ("dp_fedsgd", "momentum"),
    ("dp_fedprox", "adam"),
    ("dp_fedavg", "adagrad"),
    ("dp_fedavg", "yogi"),
    ("dp_ftrl", "momentum"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    zygote = Zygote()
    with markets.engine(processes=1) as engine:
        yield Bench(engine, tmp_path_factory.mktemp("determinism"), zygote)
    zygote.close()


def test_every_row_is_there() -> None:
    assert {name for name, _ in ROWS} == set(ALGORITHMS) == set(runnable.ALGORITHMS)
    assert {optimizer for _, optimizer in ROWS} == set(OPTIMIZERS)


@pytest.mark.parametrize(("name", "optimizer"), ROWS)
def test_two_threads_and_a_killed_sandbox_change_no_bit(
    bench: Bench, name: str, optimizer: str
) -> None:
    body = {
        "noise_multiplier": 2.0,
        "algorithm": {
            "clip_norm": 0.5,
            "batch_size": 2,
            "server_optimizer": {"name": optimizer, "learning_rate": 0.1},
        }
        | ALGORITHMS[name],
    } | (TREE if name == "dp_ftrl" else {})
    straight = bench.forgetting().run(people(), Keys(), rounds=ROUNDS, **body)
    assert straight.completed

    killed: list[int] = []

    def kill(watched: Watched, number: int) -> None:
        if number == 2 and not killed:
            killed.append(watched.opened().pid or 0)
            watched.kill()

    # Rounds 1 and 2 are charged, 2 is lost and charged again: of 6 paid for, 5 are published. A
    # tree is paid for whole, and its lost round is the same round again.
    paid = ROUNDS if name == "dp_ftrl" else ROUNDS + 1
    resumed = bench.forgetting(shards=2, block=2).run(
        people(), Keys(), attempts=2, around=kill, rounds=paid, **body
    )
    assert len(killed) == 1
    assert (resumed.ending, resumed.job.rounds_published) == ("ended", ROUNDS)
    np.testing.assert_array_equal(resumed.weights[-1], straight.weights[-1])
    assert not np.array_equal(straight.weights[-1], straight.weights[0])
