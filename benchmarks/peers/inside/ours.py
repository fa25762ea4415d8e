"""The house's side in the same form as its peers: `ours.py KIND STORE FOLDER SHARDS`.

`naive` is the plain Keras loop, `alone` the flat-ragged engine, `whole` a private round as a worker
runs it; `exact` adds up the engine's updates before the grid, and a double-precision reference.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).resolve().parents[3])]

from benchmarks.contenders import contender  # noqa: E402
from benchmarks.peers.inside.conversation import Act, Given, answer  # noqa: E402
from benchmarks.peers.workload import NOISE_MULTIPLIER, ROUND  # noqa: E402
from kit.ragged import RaggedStore  # noqa: E402
from worker.aggregate import ServerOptimizer, ServerState, run_round  # noqa: E402
from worker.launcher import Sandbox  # noqa: E402
from worker.noise import NoiseSource  # noqa: E402
from worker.sampling import draw_cohort  # noqa: E402
from worker.task import TrainingTask  # noqa: E402


@contextmanager
def _naive(task: TrainingTask, store: Path, given: Given) -> Iterator[dict[str, Act]]:
    with contender("naive", task, store) as engine:
        yield {"round": lambda: [engine.lap(ROUND).total]}


@contextmanager
def _alone(task: TrainingTask, store: Path, given: Given) -> Iterator[dict[str, Act]]:
    with contender("flat", task, store) as engine:
        yield {"round": lambda: [engine.lap(ROUND).total]}


@contextmanager
def _whole(task: TrainingTask, store: Path, given: Given) -> Iterator[dict[str, Act]]:
    """Cohort, sandbox in another process, check, noise, server step."""
    people = RaggedStore.open(store).clients
    with Sandbox(task, store) as sandbox:
        start = sandbox.initial_weights()

        def act() -> list[Any]:
            source, state = NoiseSource(), ServerState([array.copy() for array in start])
            cohort = draw_cohort("poisson", people, people, source.derive("cohort"))
            run_round(
                state,
                sandbox.round(ROUND, cohort, state.weights),
                clients=len(cohort),
                clip_norm=task.clip_norm,
                noise_multiplier=NOISE_MULTIPLIER,
                denominator=float(people),
                optimizer=ServerOptimizer(),
                source=source.derive("noise"),
            )
            return list(state.weights)

        yield {"round": act}


@contextmanager
def _exact(task: TrainingTask, store: Path, given: Given) -> Iterator[dict[str, Act]]:
    from benchmarks.peers.inside import exact

    yield {
        "grid": lambda: exact.on_the_grid(task, store, given),
        "plain": lambda: exact.off_the_grid(task, given, clip_norm=None),
        "clipped": lambda: exact.off_the_grid(task, given, clip_norm=task.clip_norm),
        "double": lambda: exact.in_double_precision(task, given, clip_norm=None),
        "double clipped": lambda: exact.in_double_precision(task, given, clip_norm=task.clip_norm),
    }


def main(kind: str, store: str, folder: str, shards: str) -> None:
    """Build one engine and answer."""
    given = Given(Path(folder))
    body = json.loads((Path(folder) / "engine.json").read_text(encoding="utf-8"))
    task = TrainingTask.model_validate(body | {"shards": int(shards)})
    build = {"naive": _naive, "alone": _alone, "whole": _whole, "exact": _exact}[kind]
    with build(task, Path(store), given) as acts:
        answer(acts, {})


if __name__ == "__main__":
    main(*sys.argv[1:5])
