"""How long the next block of a job is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.settings import Settings
from worker.pace import Pace, pace_of


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def paced(*blocks: tuple[int, float], most: int = 20, seconds: float = 1.0) -> int:
    """The next block after some of (rounds, seconds)."""
    clock = Clock()
    pace = Pace(most=most, seconds=seconds, clock=clock)
    for rounds, took in blocks:
        with pace.measured(rounds):
            clock.now += took
    return pace.rounds


def test_nothing_is_known_at_first() -> None:
    assert paced() == 1
    assert Pace(most=20, seconds=1.0, first=5).rounds == 5
    assert Pace(most=3, seconds=1.0, first=5).rounds == 3


@pytest.mark.parametrize(
    ("rounds", "took", "following"),
    [
        (5, 0.5, 10),  # a tenth of a second each
        (5, 0.75, 6),  # the seventh would end after the moment
        (5, 0.0, 20),  # too short to be measured
        (5, 0.01, 20),  # never more than the most
        (5, 5.0, 1),
        (5, 600.0, 1),  # never less than one
        (1, 0.25, 4),
    ],
)
def test_a_block_is_as_many_rounds_as_fit_the_moment(
    rounds: int, took: float, following: int
) -> None:
    assert paced((rounds, took)) == following


def test_the_last_block_counts_alone() -> None:
    assert paced((5, 60.0), (1, 0.1)) == 10
    assert paced((5, 0.01), (20, 40.0)) == 1


def test_the_moment_is_the_operators() -> None:
    assert paced((5, 60.0), seconds=60.0) == 5
    assert paced((5, 60.0), seconds=3600.0) == 20


def test_a_block_that_ends_early_says_nothing() -> None:
    clock = Clock()
    pace = Pace(most=20, seconds=1.0, first=5, clock=clock)
    with pytest.raises(LookupError), pace.measured(5):
        raise LookupError
    assert pace.rounds == 5


@pytest.mark.parametrize(("rounds", "longest"), [(1, 1), (5, 1), (12, 3), (99, 20), (1000, 20)])
def test_a_dying_worker_costs_a_fifth_of_a_job_at_most(
    rounds: int, longest: int, tmp_path: Path
) -> None:
    pace = pace_of(Settings(state_dir=tmp_path), rounds)
    with pace.measured(10**9):
        pass
    assert pace.rounds == longest
