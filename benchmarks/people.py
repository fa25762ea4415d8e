"""What do a million people cost: to register, to open, to draw a round of, to read?"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import market as markets
from benchmarks.report import REPOSITORY, Table
from benchmarks.timing import Act, Sizes, alternate
from jobs.ingest import ingest
from kit.ragged import RaggedStore, ragged_rows
from privacy_gateway.manifest import Manifest
from worker.noise import NoiseSource
from worker.sampling import poisson_cohort

MIB = 1 << 20
EXAMPLES = 3
FEATURES = 8
COHORTS = (100, 1000)


def ask(sizes: Sizes) -> Iterator[Table]:
    """A Parquet file in random order, its store, and rounds on it."""
    table = Table(
        "people",
        f"registering and using people with {EXAMPLES} records of {FEATURES} float32 each",
        (
            "people",
            "file MiB",
            "register s",
            "µs a record",
            "peak MiB",
            "open ms",
            "draw ms",
            *(f"read {cohort} ms" for cohort in COHORTS),
        ),
    )
    for people in (10_000, 100_000) if sizes.quick else (10_000, 100_000, 1_000_000):
        with markets.scratch() as folder:
            table.add(people, *_measured(people, folder, sizes))
    table.notes.append(
        "register: read, check, group by person, seal and hash in a process of its own, whose peak "
        "counts the interpreter and Arrow too; open: map the store; draw: a Poisson cohort of 100; "
        "read: rows of a cohort gathered into memory, from the page cache"
    )
    yield table


def _measured(people: int, folder: Path, sizes: Sizes) -> list[float]:
    """One row of the table."""
    source = folder / "people.parquet"
    _file(source, people)
    command = [sys.executable, "-m", "benchmarks.people", str(people), str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    facts = json.loads(done.stdout)
    home = Path(facts["store"])
    noise, numbers = NoiseSource(), np.random.default_rng(1)
    store = RaggedStore.open(home)
    cohorts = {size: np.sort(numbers.choice(people, size, replace=False)) for size in COHORTS}
    acts: dict[str, Act] = {
        "open": lambda: RaggedStore.open(home),
        "draw": lambda: poisson_cohort(people, COHORTS[0], noise),
    }
    acts |= {str(size): partial(_rows, store, cohort) for size, cohort in cohorts.items()}
    spread = alternate(acts, runs=sizes.runs, inner=10)
    seconds = facts["seconds"]
    return [
        source.stat().st_size / MIB,
        seconds,
        1e6 * seconds / (people * EXAMPLES),
        facts["peak"] / MIB,
        *(1e3 * spread[name].median for name in acts),
    ]


def _rows(store: RaggedStore, cohort: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The features of a cohort, in memory."""
    rows: npt.NDArray[np.float32] = store.column("features")[ragged_rows(store.offsets, cohort)[0]]
    return rows


def _file(path: Path, people: int) -> None:
    """Records of all people in random order."""
    numbers = np.random.default_rng(people)
    order = numbers.permutation(np.repeat(np.arange(people), EXAMPLES))
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for start in range(0, len(order), 100_000):
            block = order[start : start + 100_000]
            values = numbers.standard_normal((len(block), FEATURES), np.float32)
            features = pa.FixedSizeListArray.from_arrays(values.ravel(), FEATURES)
            who = pa.array([f"person-{number:07}" for number in block])
            label = pa.array(numbers.integers(0, 2, len(block), np.int32))
            writer.write_table(pa.table([who, features, label], _SCHEMA))


_SCHEMA = pa.schema({"who": pa.string(), "x": pa.list_(pa.float32(), FEATURES), "y": pa.int32()})


def _register(people: int, folder: Path) -> None:
    """Ingest in this process and print what it took."""
    manifest = Manifest(
        name="people",
        population="pop_1",
        client="who",
        features=("x",),
        label="y",
        format="parquet",
        classes=2,
    )
    started = time.perf_counter()
    made = ingest(
        manifest, folder / "people.parquet", clients=people, directory=folder / "datasets"
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "store": str(made.store)}))


if __name__ == "__main__":
    _register(int(sys.argv[1]), Path(sys.argv[2]))
