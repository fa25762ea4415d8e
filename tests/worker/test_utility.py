"""Models trained under a real budget are useful: accuracy on people never seen, on real data.

The noise multiplier is the least that the ledger's filter admits for one job on a fresh budget, so
the accuracy below is really bought with the ε it names. Jobs are those of `benchmarks.recipes`,
whose table has every ε and several seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from accounting.budget import terms_of
from accounting.curve import price
from accounting.plan import TrainingPlan, plan_of
from benchmarks import datasets, plot, private, recipes
from benchmarks.datasets import Absent, Registered
from benchmarks.private import Recipe
from jobs import admission
from privacy_gateway import schemas
from privacy_gateway.manifest import Manifest
from privacy_gateway.schemas import JobRequest
from tests.audit import bench as audit
from tests.support import market as markets
from worker.noise import NoiseSource
from worker.task import TrainingTask
from worker.zygote import Zygote

EPSILON = 8.0


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


def _fits(plan: TrainingPlan, delta: float) -> bool:
    cost = price(plan.mechanism).total(plan.charge_units)
    limits = terms_of(round(EPSILON * 10**9), delta).limits
    return any(spent <= limit for spent, limit in zip(cost, limits, strict=True))


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "least"),
    [(recipes.WRITERS, 0.88), (recipes.PATIENTS, 0.78)],
    ids=["writers", "patients"],
)
def test_a_linear_model_within_epsilon_8(
    recipe: Recipe, least: float, shared_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    data = recipe.make(tmp_path)
    bought = private.buy(recipe, data.clients, EPSILON)
    assert _fits(bought.plan, recipe.delta)
    less = bought.plan.changed(noise_multiplier=bought.plan.noise_multiplier - 0.05)
    assert not _fits(less, recipe.delta)

    metrics = private.train(bought, data, seed=0, begin=zygote)

    assert metrics["examples"] == data.test_examples
    assert metrics["accuracy"] >= least


@pytest.mark.tensorflow
@pytest.mark.slow
def test_a_job_of_the_table_is_the_coordinators_bit_for_bit(tmp_path: Path, zygote: Zygote) -> None:
    algorithm = {
        "name": "dp_fedsgd",
        "clip_norm": 0.5,
        "server_optimizer": {"name": "momentum", "learning_rate": 0.3, "momentum": 0.9},
    }
    key, world = bytes(range(32)), audit.people()
    (tmp_path / "gateway").mkdir()
    with markets.engine(processes=1) as engine:
        bench = audit.Bench(engine, tmp_path / "gateway", zygote)
        with bench.market(world) as market:
            body = audit.body(market, rounds=3, algorithm=algorithm)
            request = schemas.parse(JobRequest, body)
            job = admission.submit(market.services, markets.RESEARCHER, request, None).job
            whole = bench.work(market, world, job.id, NoiseSource(key))
    assert whole.completed

    plan = plan_of(request, clients=len(world.sizes))
    bought = private.Bought(request, plan, EPSILON, None)
    with closing(private.trainers_of(*_as_registered(bought, bench, world, job.id), zygote)) as own:
        state = private.run(bought, own, NoiseSource(key))

    flat = np.concatenate([array.ravel() for array in state.weights]).astype(np.float64)
    assert np.array_equal(flat, whole.weights[-1])


def _as_registered(
    bought: private.Bought, bench: audit.Bench, world: audit.World, job_id: str
) -> tuple[TrainingTask, Registered]:
    """The audit's people as the table's data, and the same job's task."""
    manifest = Manifest(
        name="people",
        population="pop_1",
        client="who",
        features=("features",),
        label="label",
        format="npz",
        classes=3,
    )
    store, count = bench.store(world), len(world.rows["label"])
    data = Registered(
        manifest, store, store, len(world.sizes), count, count, "float32", (audit.FEATURES,)
    )
    return private.task_of(bought, data, job_id), data


def test_data_that_are_absent_are_named_with_what_would_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRIVACY_GATEWAY_TEST_DATA", str(tmp_path))
    with pytest.raises(Absent, match="PRIVACY_GATEWAY_TEST_DATA"):
        recipes.WRITERS.make(tmp_path)


@pytest.mark.parametrize("recipe", [*recipes.SETS, recipes.LSTM], ids=lambda recipe: recipe.name)
def test_a_job_of_the_table_spends_its_budget_and_no_more(recipe: Recipe) -> None:
    clients = recipe.body["clients_per_round"]
    for epsilon in (0.5, EPSILON):
        bought = private.buy(recipe, clients, epsilon)
        assert bought.alone is not None
        # The weighted filter asks for a little more than the job costs by itself.
        assert 0.85 * epsilon < bought.alone <= epsilon


def test_records_are_five_characters_and_the_one_that_follows() -> None:
    x, y, who = datasets._characters(["Ay, sir", "O"])

    size = len(datasets.ALPHABET)
    read = ["".join(datasets.ALPHABET[code % size] for code in row) for row in x]
    assert read[0] == "     "
    assert read[6] == "y, si"
    assert "".join(datasets.ALPHABET[code] for code in y) == "Ay, sirO"
    assert who.tolist() == [0] * 7 + [1]
    assert (x // size == range(datasets.CONTEXT)).all()


def test_a_plot_holds_every_mean_within_its_frame(tmp_path: Path) -> None:
    points = tuple(plot.Point(k, 0.2 * k, 0.2 * k - 0.05, 0.2 * k + 0.05) for k in range(1, 5))
    path = plot.draw(
        tmp_path / "plot.svg",
        [plot.Line("a < b", points)],
        places=["0", "1", "2", "3", "4"],
        title="t",
        across="x",
        up="y",
    )

    text = path.read_text("utf-8")
    assert text.count("<circle") == 4
    assert "a &lt; b" in text
    heights = [float(part.split('"')[0]) for part in text.split('cy="')[1:]]
    assert heights == sorted(heights, reverse=True)
    assert 0 < min(heights) < max(heights) < plot.HEIGHT
