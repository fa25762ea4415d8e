"""Many clients at once: threads with sessions of their own, and whole processes of them.

A process is this module run as a program. What its clients were told is appended to a file after
each answer, so that the file survives the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from kit.db import Database
from kit.process import spawn, stop
from tests.reference.traffic import Client
from tests.support.servers import REPOSITORY


def clients(
    count: int, populations: Sequence[str], *, first: int = 0, seed: int = 0
) -> list[Client]:
    """Clients numbered from `first`."""
    return [Client(first + number, populations, seed) for number in range(count)]


def run(database: Database, crew: Sequence[Client], operations: int) -> None:
    """Each client in a thread of its own, `operations` in all; the first failure is raised."""

    def work(client: Client) -> None:
        for _ in range(operations // len(crew)):
            client.step(database)

    with ThreadPoolExecutor(len(crew)) as pool:
        for done in [pool.submit(work, client) for client in crew]:
            done.result()


def run_until(
    database: Database,
    crew: Sequence[Client],
    stopped: Callable[[], bool],
    survivable: type[Exception] | tuple[type[Exception], ...],
) -> Counter[str]:
    """Each client goes on until `stopped`, whatever survivable failures it meets; these by name."""
    met: Counter[str] = Counter()

    def work(client: Client) -> None:
        while not stopped():
            try:
                client.step(database)
            except survivable as error:
                met[type(error).__name__] += 1

    with ThreadPoolExecutor(len(crew)) as pool:
        for done in [pool.submit(work, client) for client in crew]:
            done.result()
    return met


@contextmanager
def process(
    url: str,
    populations: Sequence[str],
    told: Path,
    *,
    first: int,
    count: int,
    operations: int,
    seed: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:
    """`count` clients in a process of their own; seals they were told of go to `told`."""
    numbers = [str(number) for number in (first, count, operations, seed)]
    child = spawn(
        [sys.executable, "-m", "tests.reference.fleet", url, str(told), *numbers, *populations],
        cwd=REPOSITORY,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "client")])},
    )
    try:
        yield child
    finally:
        stop(child, grace_seconds=0)


def told_in(path: Path) -> list[str]:
    """Seals in a process's file; a line cut by a kill was not heard."""
    lines = path.read_text(encoding="ascii").split("\n") if path.exists() else [""]
    return lines[:-1]


class _Telling(Client):
    """A client that writes down what it hears before it goes on."""

    descriptor = -1

    def step(self, database: Database) -> None:
        before = len(self.acknowledged)
        super().step(database)
        for seal in self.acknowledged[before:]:
            os.write(self.descriptor, f"{seal}\n".encode())


def _main(url: str, told: str, first: int, count: int, operations: int, seed: int) -> None:
    database = Database(url)
    _Telling.descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    crew = [_Telling(first + number, sys.argv[7:], seed) for number in range(count)]
    run(database, crew, operations)
    database.close()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:7]))
