"""The list of algorithms, each coupled with the mechanism it was priced as.

An algorithm is a function from a client's rows to that client's raw update; clipping, summing and
noise lie outside and are the same for all. One that does not name its event cannot be registered:
a price without a mechanism, or a mechanism without a price, must not exist.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from worker.task import Event, TrainingTask
from worker.training.models import Model

Tensors: TypeAlias = list[Any]


@dataclass(frozen=True)
class ClientRows:
    """One client inside a slice, as tensors.

    Attributes:
        features, labels: rows of the whole slice.
        start, stop: this client's rows, int32 scalars; `start == stop` for an empty client.
        seed: int32 scalar for dropout.
    """

    features: Any
    labels: Any
    start: Any
    stop: Any
    seed: Any


# From the round's weights and one client's rows to its update (same structure as the weights).
LocalUpdate: TypeAlias = Callable[[Tensors, ClientRows], Tensors]


@dataclass(frozen=True)
class Algorithm:
    """A registered algorithm.

    Attributes:
        name: as it stands in a job.
        event: the mechanism of one round. `gaussian_sum`: each sampled client contributes one
            vector clipped to C, Gaussian noise z·C is added to the sum. `tree_sum`: each client
            contributes one such vector to one leaf of a tree, noise z·C is added to every node.
        local: builds the graph of a client's update for a task and its model.
    """

    name: str
    event: Event
    local: Callable[[TrainingTask, Model], LocalUpdate]


_ALGORITHMS: dict[str, Algorithm] = {}


def register(algorithm: Algorithm) -> Algorithm:
    """Add an algorithm; ValueError when it names no known event or its name is taken."""
    if algorithm.event not in get_args(Event):
        raise ValueError(f"Expected {algorithm.name} to declare one of {get_args(Event)}")
    if algorithm.name in _ALGORITHMS:
        raise ValueError(f"{algorithm.name} is registered already")
    _ALGORITHMS[algorithm.name] = algorithm
    return algorithm


def algorithm_of(task: TrainingTask) -> Algorithm:
    """The task's algorithm; LookupError when it is unknown or was priced as something else."""
    algorithm = _ALGORITHMS.get(task.algorithm)
    if algorithm is None or algorithm.event != task.event:
        raise LookupError("no algorithm of that name and event")
    return algorithm
