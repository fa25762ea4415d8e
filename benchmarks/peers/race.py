"""The race: every engine of one model alive at once, one round each in turn, then sums compared.

Ratios are taken from medians of one run. A row has the wall clock and the processor time; on a
machine with neighbours the second is the one to believe, and where all cores are used alike it
gives the same ratio.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.peers import bars, compare, workload
from benchmarks.peers.engine import Engine, Turn, engine, engines
from benchmarks.peers.environments import environments
from benchmarks.peers.workload import Workload
from benchmarks.report import REPOSITORY, Table, cores
from benchmarks.timing import Sizes

INSIDE = Path(__file__).parent / "inside"
PLOT = REPOSITORY / "docs" / "internals" / "peers.svg"

USED = "clients/cpu-s"
NAIVE, TFF, TFF_DP = "naive Keras loop", "TFF", "TFF, clip and noise"
FLOWER, FLOWER_DP = "Flower", "Flower, clip and noise"
TORCH, TORCH_DP = "PyTorch loop", "PyTorch loop, clip and noise"
ALONE, WHOLE = "engine alone", "whole private round"
# Rounds of ours in a turn, where one is too short for the clock of processor time.
TIMES = {"LR": 5, "MLP": 2}
# Of the whole private round, from the specification of training.
TARGETS = {
    "LR": {NAIVE: 12.0, TFF: 20.0},
    "MLP": {NAIVE: 7.0, TFF: 9.0},
    "CNN": {NAIVE: 1.3, TFF: 1.8},
    "LSTM": {NAIVE: 1.4, TFF: 2.2},
}


@dataclass(frozen=True, slots=True)
class Racer:
    """A row of the table: which process runs it, and what it is asked."""

    name: str
    process: str
    act: str


RACERS = (
    Racer(NAIVE, "naive", "round"),
    Racer(TFF, "tff", "plain"),
    Racer(TFF_DP, "tff", "private"),
    Racer(FLOWER, "flower", "plain"),
    Racer(FLOWER_DP, "flower", "private"),
    Racer(TORCH, "torch", "plain"),
    Racer(TORCH_DP, "torch", "private"),
    Racer(ALONE, "alone", "round"),
    Racer(WHOLE, "whole", "round"),
)


def ask(sizes: Sizes) -> Iterator[Table]:
    """Speed, then equality of sums; the plot is drawn of the first."""
    pythons = environments()
    speed = Table(
        "peers",
        "clients a second beside other frameworks, 10 to 300 examples each, batch 20",
        (
            "model",
            "engine",
            "clients/s",
            "to whole round",
            USED,
            "to whole, cpu",
            "target",
        ),
    )
    equal = Table(
        "peers-sums",
        "relative distance of un-noised sums of updates, |a − b| / |b|",
        ("model", "clip", "sum", "beside", "distance"),
    )
    for name in workload.MODELS if sizes.full else ("LR", "MLP"):
        with TemporaryDirectory(prefix="bench-") as folder:
            given = workload.prepare(
                workload.MODELS[name], Path(folder), divided_by=4 if sizes.quick else 1
            )
            _race(name, given, pythons, sizes, speed, equal)
        # After each model, so that an hour's figures are not lost with the last one.
        if sizes.full:
            bars.draw(
                PLOT, bars.groups_of(speed, USED), title="Clients a processor-second, logarithmic"
            )
        yield speed
        yield equal


def commands(given: Workload, pythons: Mapping[str, Path]) -> dict[str, list[str]]:
    """How each process is started, by name."""
    both = [str(given.store), str(given.folder), str(cores())]
    ours = [sys.executable, str(INSIDE / "ours.py")]
    return {
        "tff": [str(pythons["tff"]), str(INSIDE / "tff_peer.py"), str(given.folder)],
        "flower": [str(pythons["flower"]), str(INSIDE / "flower_peer.py"), str(given.folder)],
        "torch": [str(pythons["torch"]), str(INSIDE / "torch_peer.py"), str(given.folder)],
        **{kind: [*ours, kind, *both] for kind in ("naive", "alone", "whole", "exact")},
    }


def _race(
    name: str,
    given: Workload,
    pythons: Mapping[str, Path],
    sizes: Sizes,
    speed: Table,
    equal: Table,
) -> None:
    started = commands(given, pythons)
    needed = {racer.process: started[racer.process] for racer in RACERS}
    with engines(needed, _environment()) as running:
        turns = _turns(running, sizes.runs, TIMES.get(name, 1))
        theirs = compare.peers_sums(running)
        versions = {k: v for e in running.values() for k, v in e.versions.items()}
    with engine(started["exact"], _environment()) as exact:
        compare.add_rows(equal, name, compare.our_sums(exact), theirs)
    for row in rows(name, given.clients, turns):
        speed.add(*row)
    speed.notes.append(
        f"{name}: {given.clients} clients, {given.examples} examples, {given.parameters} "
        f"parameters; {', '.join(f'{k} {v}' for k, v in sorted(versions.items()))}"
    )


def _turns(running: Mapping[str, Engine], runs: int, times: int) -> dict[str, list[Turn]]:
    """Rounds in turns; the first of each builds graphs and is not counted."""
    turns: dict[str, list[Turn]] = {racer.name: [] for racer in RACERS}
    for number in range(runs + 1):
        for racer in RACERS:
            often = times if number and racer.name in (ALONE, WHOLE) else 1
            turn = running[racer.process].turn(racer.act, often)
            if number:
                turns[racer.name].append(turn)
    return turns


def rows(
    name: str, clients: int, turns: Mapping[str, Sequence[Turn]]
) -> Iterator[tuple[str | float | None, ...]]:
    """One row an engine: rates, and how many times faster the whole private round is."""
    wall = {key: median(turn.seconds for turn in taken) for key, taken in turns.items()}
    used = {key: median(turn.processor_seconds for turn in taken) for key, taken in turns.items()}
    for key in turns:
        yield (
            name,
            key,
            clients / wall[key],
            wall[key] / wall[WHOLE],
            clients / used[key] if used[key] else None,
            used[key] / used[WHOLE] if used[WHOLE] else None,
            TARGETS[name].get(key),
        )


def _environment() -> dict[str, str]:
    return {"PEER_CONCURRENCY": str(cores())}
