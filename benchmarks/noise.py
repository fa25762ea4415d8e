"""What do noise and the drawing of a cohort cost, beside generators that may not be used?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.report import Table
from benchmarks.timing import Sizes, alternate
from worker.noise import NoiseSource
from worker.sampling import fixed_size_cohort, poisson_cohort
from worker.task import GRID

PARAMETERS = 1_000_000
CLIENTS = 1_000_000
COHORT = 1000


def ask(sizes: Sizes) -> Iterator[Table]:
    """Noise for each parameter, then a cohort of a million clients."""
    source, generator = NoiseSource(), np.random.default_rng()
    yield _compare(
        "noise",
        f"Gaussian noise for {PARAMETERS:,} parameters",
        ("what", "ns a parameter", "to NumPy"),
        {
            "NumPy's normal, rounded (not cryptographic)": lambda: np.rint(
                generator.normal(0.0, GRID, PARAMETERS)
            ).astype(np.int64),
            "AES-CTR, integer Gaussian": lambda: source.gaussian(PARAMETERS, float(GRID)),
            "AES-CTR, uniform words alone": lambda: source.uniform64(PARAMETERS),
        },
        1e9 / PARAMETERS,
        sizes,
    )
    yield _compare(
        "sampling",
        f"a cohort of {COHORT:,} from {CLIENTS:,} clients",
        ("what", "ms", "to NumPy"),
        {
            "NumPy's coin of floats (not cryptographic)": lambda: np.flatnonzero(
                generator.random(CLIENTS) < COHORT / CLIENTS
            ),
            "Poisson, exact, AES-CTR": lambda: poisson_cohort(CLIENTS, COHORT, source),
            "fixed size, AES-CTR": lambda: fixed_size_cohort(CLIENTS, COHORT, source),
        },
        1e3,
        sizes,
    )


def _compare(
    name: str,
    question: str,
    columns: tuple[str, ...],
    acts: dict[str, Callable[[], object]],
    unit: float,
    sizes: Sizes,
) -> Table:
    table = Table(name, question, columns)
    taken = alternate(acts, runs=sizes.runs * 5)
    first = next(iter(taken.values())).median
    for what, found in taken.items():
        table.add(what, found.median * unit, found.median / first)
    return table
