"""Clocks: how long one act takes, and how many of them some threads get done together.

Acts that are compared take turns within one run, so that a neighbour on the machine slows all of
them alike; what is reported is a median, never the best.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

Act = Callable[[], object]


def processor_seconds(pid: int) -> float:
    """What a process has used, all its threads; its clock counts in hundredths."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    ticks = sum(map(int, stat.rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        runs: repetitions a median is taken of, at least 3.
        window_seconds: length of one window of throughput.
        quick: a look, not a measurement.
        full: with what takes minutes.
    """

    runs: int
    window_seconds: float
    quick: bool
    full: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations of one act in seconds."""

    durations: tuple[float, ...]

    @property
    def median(self) -> float:
        """The half of them is faster."""
        return median(self.durations)

    def percentile(self, percent: int) -> float:
        """So many percent of them are faster."""
        if len(self.durations) < 2:
            return self.durations[0]
        return quantiles(self.durations, n=100, method="inclusive")[percent - 1]


def alternate(acts: Mapping[str, Act], *, runs: int, inner: int = 1) -> dict[str, Spread]:
    """Time several acts in turns, each once before to warm it up.

    Args:
        acts: by name.
        runs: turns.
        inner: calls between two looks at the clock; a duration is that of one call.
    """
    taken: dict[str, list[float]] = {name: [] for name in acts}
    for act in acts.values():
        act()
    for _ in range(runs):
        for name, act in acts.items():
            started = time.perf_counter()
            for _ in range(inner):
                act()
            taken[name].append((time.perf_counter() - started) / inner)
    return {name: Spread(tuple(durations)) for name, durations in taken.items()}


def spread(act: Act, *, runs: int, inner: int = 1) -> Spread:
    """Time one act."""
    return alternate({"act": act}, runs=runs, inner=inner)["act"]


def each(acts: Sequence[Act]) -> Spread:
    """Time acts that cannot be repeated, one after the other."""
    taken = []
    for act in acts:
        started = time.perf_counter()
        act()
        taken.append(time.perf_counter() - started)
    return Spread(tuple(taken))


@dataclass(frozen=True, slots=True)
class Rush:
    """What some threads got done in one window: acts a second, and how long each took."""

    rate: float
    durations: tuple[float, ...]


def rush(clients: int, act: Callable[[int], object], *, seconds: float) -> Rush:
    """Let threads repeat an act, told the number of its thread, until the window closes.

    What was begun in the window is finished and counted, and the window ends with the last one.

    Raises:
        Exception: the first error of any thread.
    """
    taken: list[list[float]] = [[] for _ in range(clients)]
    errors: list[BaseException] = []
    start = threading.Barrier(clients + 1)
    closing = [float("inf")]

    def client(number: int) -> None:
        start.wait()
        try:
            while (began := time.perf_counter()) < closing[0]:
                act(number)
                taken[number].append(time.perf_counter() - began)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    opened = time.perf_counter()
    closing[0] = opened + seconds
    start.wait()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - opened
    if errors:
        raise errors[0]
    durations = tuple(duration for mine in taken for duration in mine)
    return Rush(len(durations) / elapsed, durations)


def rushes(clients: int, act: Callable[[int], object], sizes: Sizes) -> tuple[float, Spread]:
    """Median rate over the windows, and all durations together."""
    act(0)
    windows = [rush(clients, act, seconds=sizes.window_seconds) for _ in range(sizes.runs)]
    durations = tuple(duration for window in windows for duration in window.durations)
    return median(window.rate for window in windows), Spread(durations)
