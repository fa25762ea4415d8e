"""How much processor time does an admission cost this process?

One thread and no rivals, so that a machine shared with others changes the answer least: what is
counted is the time the processor spent on this process (all of its threads), not the time that
passed. `settle` is everything an admission stores with every check under the lock, for attempts
judged before, alone and in groups; `submit` is the whole use case, policy and price included. The
policy engine's child is a process of its own and is counted by itself. One interpreter runs on one
core at a time, so the reciprocal of a row is the most that a gateway process can admit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks import admission as admissions
from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Sizes, processor_seconds
from jobs import admission, quoting
from jobs.attempt import Attempt
from jobs.settle import settle
from tests.support.market import Market

RESEARCHERS = 16
GROUPS = (1, 16, 64)
COLUMNS = ("what", "CPU ms", "child's CPU ms", "most a second")


def ask(sizes: Sizes) -> Iterator[Table]:
    """One table."""
    table = Table("processor", "processor time of one admission, one thread", COLUMNS)
    with (
        markets.scratch() as folder,
        markets.databases(folder) as databases,
        markets.engine(1) as engine,
    ):
        for name, database in databases.items():
            market = markets.open_market(database, engine, folder)
            for what, count, act in _acts(market):
                _row(table, f"{name}: {what}", count, act, sizes)
    table.notes.append(
        "medians over batches; PostgreSQL's own time is not counted; targets: settle in groups of "
        "64 ≤ 0.6 ms, submit ≤ 4 ms, quote ≤ 2 ms"
    )
    yield table


def _acts(market: Market) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Name, admissions of one call, the call."""
    attempts = [admissions.attempt(market, number) for number in range(RESEARCHERS)]
    for size in GROUPS:
        yield f"settle, groups of {size}", size, _settle(market, attempts, size)
    request, me = markets.cheap(market.dataset_id), markets.researcher(1)
    yield (
        "submit",
        1,
        lambda: admission.submit(market.services, me, request, f"key-{next(markets.SERIAL)}"),
    )
    yield "quote, warm", 1, lambda: quoting.quote(market.services, me, request)


def _settle(market: Market, attempts: Sequence[Attempt], size: int) -> Callable[[], object]:
    """A committed group of attempts, each with a key and an id of its own."""

    def act() -> object:
        group = [
            replace(
                attempts[number % len(attempts)],
                key=f"key-{next(markets.SERIAL)}",
                job_id=market.services.new_id("job"),
            )
            for number in range(size)
        ]
        while group:  # a machine that is too busy does not get through a group in its time
            with market.database.unit_of_work() as session:
                answers = settle(market.services, session, group)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            group = group[len(answers) :]
        return None

    return act


def _row(table: Table, name: str, count: int, act: Callable[[], object], sizes: Sizes) -> None:
    batch = max(1, (64 if sizes.quick else 256) // count)
    for _ in range(max(1, batch // 4)):
        act()
    marks, childs = [time.process_time()], [_childrens()]
    for _ in range(sizes.runs):
        for _ in range(batch):
            act()
        marks.append(time.process_time())
        childs.append(_childrens())
    each = median((after - before) / batch / count for before, after in pairwise(marks))
    child = (childs[-1] - childs[0]) / batch / count / sizes.runs
    table.add(name, each * 1e3, child * 1e3, 1 / each)


def _childrens() -> float:
    """Processor seconds of this process's living children, as Linux tells them."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
    return sum(processor_seconds(int(pid)) for pid in pids)
