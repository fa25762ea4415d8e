"""What does privacy cost in accuracy? Real people's data, every job bought for its whole budget.

A row is one (data set, model, ε): the least noise that the filter of an empty budget of (ε, δ)
admits, several seeds, accuracy on people who were never trained on. Data and jobs go the product's
own way, see `benchmarks.datasets` and `benchmarks.private`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from benchmarks import market, plot, private
from benchmarks.datasets import Absent, Registered
from benchmarks.private import Bought, Recipe
from benchmarks.recipes import LSTM, QUICK, SETS
from benchmarks.report import RESULTS, Cell, Table
from benchmarks.timing import Sizes
from worker.start import Start
from worker.zygote import Zygote

EPSILONS: tuple[float | None, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, None)
COLUMNS = (
    "data and model",
    "ε",
    "mean",
    "±",
    "lowest",
    "highest",
    "wanted",
    "seeds",
    "rounds",
    "noise z",
    "ε alone",
)
WANTED = {
    ("writers, linear", 8.0): 0.88,
    ("writers, linear", 2.0): 0.86,
    ("patients, linear", 8.0): 0.80,
    ("roles, linear", 8.0): 0.28,
}
PLOT = "utility.svg"


@dataclass(frozen=True, slots=True)
class Figure:
    """Accuracies of one row, one for each seed."""

    bought: Bought
    accuracies: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def ask(sizes: Sizes) -> Iterator[Table]:
    """A table a data set and model, and a plot of all of them so far."""
    lines: list[plot.Line] = []
    with closing(Zygote()) as begin:
        for recipe in QUICK if sizes.quick else (*SETS, LSTM) if sizes.full else SETS:
            with market.scratch() as folder:
                yield _table(recipe, folder, begin, sizes, lines)


def _table(
    recipe: Recipe, folder: Path, begin: Start, sizes: Sizes, lines: list[plot.Line]
) -> Table:
    """One data set over ε; its line is added to those of the plot."""
    slug = recipe.name.replace(", ", "-").lower()
    table = Table(f"utility-{slug}", "accuracy on people never trained on", COLUMNS)
    try:
        data = recipe.make(folder)
    except Absent as absent:
        table.notes.append(str(absent))
        return table
    lines.append(_rows(table, recipe, data, begin, sizes))
    table.notes.append(_described(recipe, data))
    table.notes.append(
        "mean ± standard deviation over seeds; z: the least noise at which the filter of an empty "
        "budget of ε admits the job, so it spends all of it; ε alone: the same job by itself, RDP"
    )
    table.notes.append(f"plot: results/{_plotted(lines).name}")
    return table


def figure(
    recipe: Recipe, data: Registered, epsilon: float | None, *, seeds: int, begin: Start
) -> Figure:
    """Train once for each seed."""
    bought = private.buy(recipe, data.clients, epsilon)
    taken = [private.train(bought, data, seed=s, begin=begin)["accuracy"] for s in range(seeds)]
    return Figure(bought, tuple(taken))


def _rows(table: Table, recipe: Recipe, data: Registered, begin: Start, sizes: Sizes) -> plot.Line:
    points = []
    for place, epsilon in enumerate(EPSILONS):
        if sizes.quick and epsilon not in (2.0, 8.0):
            continue
        if recipe.epsilons and epsilon not in recipe.epsilons:
            continue
        # Without noise and sampling only the first weights differ.
        seeds = 1 if sizes.quick or epsilon is None else recipe.seeds
        found = figure(recipe, data, epsilon, seeds=seeds, begin=begin)
        table.add(*_row(recipe, found))
        low, high = min(found.accuracies), max(found.accuracies)
        points.append(plot.Point(place, mean(found.accuracies), low, high))
    return plot.Line(recipe.name, tuple(points))


def _row(recipe: Recipe, found: Figure) -> tuple[Cell, ...]:
    bought = found.bought
    return (
        recipe.name,
        "no privacy" if bought.epsilon is None else bought.epsilon,
        mean(found.accuracies),
        found.spread,
        min(found.accuracies),
        max(found.accuracies),
        WANTED.get((recipe.name, bought.epsilon or 0.0)),
        len(found.accuracies),
        bought.plan.rounds,
        None if bought.epsilon is None else bought.plan.noise_multiplier,
        bought.alone,
    )


def _described(recipe: Recipe, data: Registered) -> str:
    size = f"{data.clients} people, {data.examples} records, {data.test_examples} to test on"
    return f"{recipe.name}: {size}, δ {recipe.delta:g}; {recipe.why}"


def _plotted(lines: list[plot.Line]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    return plot.draw(
        RESULTS / PLOT,
        lines,
        places=[f"{e:g}" if e else "no privacy" for e in EPSILONS],
        title="Accuracy on people never trained on, by the budget's ε",
        across="ε of the budget that one job spends",
        up="accuracy",
    )
