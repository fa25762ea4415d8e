"""What can clients who lie do to a model, and which defence can a private job have?

Attackers among the writers flip their labels, turn their updates around, or send whatever puts
their own model in the place of ours; each is met with no defence, with the product's norm bound,
with bound and noise, and with the robust aggregators of `benchmarks.aggregators`. Honest people
are trained by the real engine in its sandbox and bound and noise are the worker's own; attackers
are given what a job never gives anybody: their own code, and everybody's updates one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import aggregators, market, private
from benchmarks.aggregators import Aggregator, Matrix
from benchmarks.datasets import Absent, Registered, writers
from benchmarks.private import Bought
from benchmarks.recipes import ATTACKED
from benchmarks.report import Table
from benchmarks.timing import Sizes
from kit import ragged
from kit.ragged import RaggedStore
from worker.aggregate import ServerOptimizer, ServerState, Weights, run_round, server_step
from worker.launcher import Sandbox
from worker.noise import NoiseSource
from worker.sampling import Clients, draw_cohort
from worker.task import GRID, TrainingTask
from worker.zygote import Zygote

EPSILON = 8.0
# Beyond every honest gradient here, so that "no defence" really has none; the grid stays fine.
UNBOUNDED = 32.0
BOOST = 10.0
# Raw gradients are several times as long as clipped ones.
FREE_RATE = 0.3

NONE, BOUND, NOISED = "no defence", "norm bound", "bound and noise, ε 8"
ROBUST: Mapping[str, Aggregator] = {
    "coordinate median": aggregators.coordinate_median,
    "trimmed mean": aggregators.trimmed_mean,
    "Krum": aggregators.krum,
}
DEFENCES = (NONE, BOUND, NOISED, "coordinate median", "trimmed mean", "Krum")


@dataclass(frozen=True, slots=True)
class Bench:
    """Sandboxes and data of one table.

    Attributes:
        bounded: clips to the job's C; honest people.
        raw: clips nothing that occurs; honest people.
        flipped: the same with everybody's labels turned into 9 − label.
        target: the model that attackers want instead of ours.
    """

    bought: Bought
    data: Registered
    bounded: Sandbox
    raw: Sandbox
    flipped: Sandbox
    target: Weights


# (bench, attackers in this cohort, round, weights, cohort's size) → one row an attacker.
Attack = Callable[[Bench, Clients, int, Weights, int], Matrix]


@dataclass(frozen=True, slots=True)
class Threat:
    """Who attacks, and how."""

    name: str
    share: float
    attack: Attack


def flip_labels(bench: Bench, who: Clients, number: int, weights: Weights, size: int) -> Matrix:
    """Honest training on labels turned around: what poisoned records alone can do."""
    return one_by_one(bench.flipped, who, number, weights)


def flip_signs(bench: Bench, who: Clients, number: int, weights: Weights, size: int) -> Matrix:
    """The honest update, turned around and ten times as long."""
    return -BOOST * one_by_one(bench.raw, who, number, weights)


def replace_model(bench: Bench, who: Clients, number: int, weights: Weights, size: int) -> Matrix:
    """Boosted so that the mean becomes the attackers' model (Bagdasaryan et al., 1807.00459)."""
    away = flat(bench.target) - flat(weights)
    return np.tile(away * (size / len(who)), (len(who), 1))


def ask(sizes: Sizes) -> Iterator[Table]:
    """Accuracy on honest people under each attack and defence."""
    table = Table("attacks", "accuracy under attack", ("attack", "attackers", *DEFENCES))
    with closing(Zygote()) as begin, market.scratch() as folder, ExitStack() as stack:
        try:
            data = writers(folder)
        except Absent as absent:
            table.notes.append(str(absent))
            yield table
            return
        bench = open_bench(stack, data, folder, begin)
        for threat in QUICK if sizes.quick else THREATS:
            figures = [play(bench, threat, defence) for defence in DEFENCES]
            table.add(threat.name, f"{threat.share:.0%}", *figures)
        plan = bench.bought.plan
    table.notes.append(
        f"writers, linear, {plan.rounds} rounds, cohorts of {plan.clients_per_round} of "
        f"{plan.population_clients}; C {plan.clip_norm}, z {plan.noise_multiplier}; one seed; "
        f"signs are boosted {BOOST:g} times; trimmed mean and Krum expect "
        f"{aggregators.SUSPECTED:.0%} attackers; a job has bound and noise, always both"
    )
    yield table


QUICK = (
    Threat("nobody attacks", 0.0, flip_labels),
    Threat("signs flipped and boosted", 0.1, flip_signs),
)
THREATS = (
    QUICK[0],
    Threat("labels flipped", 0.1, flip_labels),
    Threat("labels flipped", 0.3, flip_labels),
    QUICK[1],
    Threat("signs flipped and boosted", 0.3, flip_signs),
    Threat("model replaced", 0.02, replace_model),
)


def open_bench(stack: ExitStack, data: Registered, folder: Path, begin: Zygote) -> Bench:
    """Start the sandboxes and make the attackers' model."""
    bought = private.buy(ATTACKED, data.clients, EPSILON)
    task = private.task_of(bought, data, "seed 0")
    raw_task = task.model_copy(update={"clip_norm": UNBOUNDED, "shards": 1})
    turned = flipped_store(data.store, folder / "flipped")

    def sandbox(job: TrainingTask, store: Path) -> Sandbox:
        return stack.enter_context(Sandbox(job, store, test_store=data.test_store, start=begin))

    bounded, raw, flipped = (
        sandbox(task, data.store),
        sandbox(raw_task, data.store),
        sandbox(raw_task, turned),
    )
    return Bench(bought, data, bounded, raw, flipped, _target(flipped, data.clients))


def play(bench: Bench, threat: Threat, defence: str) -> float:
    """Train once and measure on the honest test set."""
    plan = bench.bought.plan
    source = NoiseSource(bytes(32))
    attackers = _attackers(data_clients := plan.population_clients, threat.share)
    state = ServerState([np.zeros_like(array) for array in bench.target])
    for number in range(1, plan.rounds + 1):
        streams = [source.derive(f"round/{number}/{use}") for use in ("cohort", "noise")]
        cohort = draw_cohort("poisson", data_clients, plan.clients_per_round, streams[0])
        bad = np.intersect1d(cohort, attackers)
        honest = np.setdiff1d(cohort, attackers)
        sent = (
            threat.attack(bench, bad, number, state.weights, len(cohort))
            if len(bad)
            else np.zeros((0, flat(state.weights).size))
        )
        if defence == NONE:
            total = flat(bench.raw.round(number, honest, state.weights)) * (UNBOUNDED / GRID)
            state = _robust_step(state, (total + sent.sum(axis=0)) / max(1, len(cohort)))
        elif defence in ROBUST:
            rows = np.concatenate([one_by_one(bench.raw, honest, number, state.weights), sent])
            state = _robust_step(state, ROBUST[defence](rows))
        else:
            state = _bounded_step(
                bench, state, number, honest, sent, streams[1], noised=defence == NOISED
            )
    return bench.bounded.evaluate(state.weights)["accuracy"]


def one_by_one(sandbox: Sandbox, who: Clients, number: int, weights: Weights) -> Matrix:
    """Each person's own update, by asking for cohorts of one: no job can do this."""
    size, step = flat(weights).size, sandbox.task.clip_norm / GRID
    rows = [flat(sandbox.round(number, who[k : k + 1], weights)) for k in range(len(who))]
    return np.array(rows).reshape(len(who), size) * step


def flat(arrays: Weights | list[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
    """All numbers of a model in one row."""
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def flipped_store(store: Path, directory: Path) -> Path:
    """The same people with label 9 − label."""
    opened = RaggedStore.open(store)
    columns = {name: np.array(opened.column(name)) for name in ("features", "label")}
    columns["label"] = 9 - columns["label"]
    scale = opened.manifest.column("features").scale
    sizes = np.diff(opened.offsets)
    ragged.write(directory, columns, sizes, scales={"features": scale})
    return directory


def _attackers(clients: int, share: float) -> Clients:
    order = np.random.default_rng(7).permutation(clients)
    return np.sort(order[: round(share * clients)]).astype(np.int64)


def _target(flipped: Sandbox, clients: int, rounds: int = 20) -> Weights:
    """What everybody's flipped labels teach, with everybody's help."""
    state = ServerState([np.zeros_like(w) for w in flipped.initial_weights()])
    everybody = np.arange(clients, dtype=np.int64)
    for number in range(1, rounds + 1):
        mean = flat(flipped.round(number, everybody, state.weights)) / clients
        state = _robust_step(state, mean * flipped.task.clip_norm / GRID)
    return state.weights


def _robust_step(state: ServerState, update: npt.NDArray[np.float64]) -> ServerState:
    """The worker's server step on what a robust rule chose."""
    return server_step(
        state, _shaped(update, state.weights), ServerOptimizer("momentum", FREE_RATE, 0.9)
    )


def _bounded_step(
    bench: Bench,
    state: ServerState,
    number: int,
    honest: Clients,
    sent: Matrix,
    source: NoiseSource,
    *,
    noised: bool,
) -> ServerState:
    """A round of the product: attackers' vectors meet the same clip, and the sum may be noised."""
    plan, clip = bench.bought.plan, bench.bounded.task.clip_norm
    sums = bench.bounded.round(number, honest, state.weights)
    lies = aggregators.clipped_to_grid(sent, clip)
    parts = np.split(lies, np.cumsum([array.size for array in sums])[:-1])
    sums = [a + part.reshape(a.shape) for a, part in zip(sums, parts, strict=True)]
    optimizer = bench.bought.request.algorithm.server_optimizer
    return run_round(
        state,
        sums,
        clients=len(honest) + len(sent),
        clip_norm=clip,
        noise_multiplier=plan.noise_multiplier,
        denominator=float(plan.clients_per_round),
        optimizer=ServerOptimizer(**optimizer.model_dump()),
        source=source if noised else private.Silent(bytes(32)),
    )


def _shaped(update: npt.NDArray[np.float64], like: Weights) -> Weights:
    parts = np.split(update, np.cumsum([array.size for array in like])[:-1])
    return [
        part.reshape(array.shape).astype(np.float32)
        for part, array in zip(parts, like, strict=True)
    ]
