"""The group-commit writer, with a table of its own: nothing is answered before it is durable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from kit.db import Database
from kit.group import GroupCommit
from privacy_gateway.errors import Refused

INSERT = sa.text("INSERT INTO thing (number) VALUES (:number)")


@pytest.fixture
def things(database: Database) -> Database:
    with database.unit_of_work() as session:
        session.execute(sa.text("CREATE TABLE thing (number BIGINT PRIMARY KEY)"))
    return database


def stored(database: Database) -> list[int]:
    with database.read() as session:
        return list(session.execute(sa.text("SELECT number FROM thing ORDER BY number")).scalars())


class Scribe:
    """Writes numbers; odd ones are refused, and a gate may hold it before it answers."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, session: Session, numbers: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(numbers))
        self.entered.release()
        assert self.gate.wait(30)
        answers: list[int | Exception] = []
        for number in numbers:
            if number % 2:
                answers.append(Refused("conflict", f"{number} is odd"))
                continue
            session.execute(INSERT, {"number": number})
            answers.append(number * 10)
        return answers


@pytest.fixture
def scribe() -> Scribe:
    return Scribe()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as made:
        yield made


def queue(
    pool: ThreadPoolExecutor, writer: GroupCommit[int, int], numbers: Sequence[int]
) -> list[Future[int]]:
    """Submit in this very order while the writer is held up."""
    waiting = []
    for count, number in enumerate(numbers, start=1):
        waiting.append(pool.submit(writer.submit, number))
        until(lambda count=count: writer.waiting() == count)
    return waiting


def until(true: Any) -> None:
    pause = threading.Event()
    for _ in range(4000):
        if true():
            return
        pause.wait(0.005)
    raise AssertionError("it never came true")


def test_what_waits_is_one_group_in_the_order_of_coming(
    things: Database, scribe: Scribe, pool: ThreadPoolExecutor
) -> None:
    writer = GroupCommit[int, int](things, scribe, largest=4)
    scribe.gate.clear()
    first = pool.submit(writer.submit, 100)
    scribe.entered.acquire()
    rest = queue(pool, writer, [2, 4, 7, 6, 8, 10])
    assert stored(things) == []
    assert not first.done()
    scribe.gate.set()
    assert [first.result(30), *(each.result(30) for each in rest if each is not rest[2])] == [
        1000, 20, 40, 60, 80, 100,
    ]  # fmt: skip
    with pytest.raises(Refused, match="7 is odd"):
        rest[2].result(30)
    assert scribe.groups == [[100], [2, 4, 7, 6], [8, 10]]
    assert stored(things) == [2, 4, 6, 8, 10, 100]
    writer.close()


def test_one_that_breaks_the_group_is_alone_in_its_failure(
    things: Database, scribe: Scribe, pool: ThreadPoolExecutor
) -> None:
    writer = GroupCommit[int, int](things, scribe)
    scribe.gate.clear()
    first = pool.submit(writer.submit, 2)
    scribe.entered.acquire()
    rest = queue(pool, writer, [4, 2, 6])
    scribe.gate.set()
    assert first.result(30) == 20
    assert isinstance(rest[1].exception(30), IntegrityError)
    assert [rest[0].result(30), rest[2].result(30)] == [40, 60]
    assert stored(things) == [2, 4, 6]
    writer.close()


def test_a_database_that_does_not_answer_refuses_all_at_once(
    things: Database, pool: ThreadPoolExecutor
) -> None:
    calls: list[int] = []
    gate = threading.Event()

    def down(session: Session, numbers: Sequence[int]) -> list[int | Exception]:
        calls.append(len(numbers))
        assert gate.wait(30)
        session.execute(INSERT, {"number": numbers[0]})
        raise OperationalError("COMMIT", {}, Exception("gone"))

    writer = GroupCommit[int, int](things, down)
    first = pool.submit(writer.submit, 0)
    until(lambda: calls == [1])
    rest = queue(pool, writer, [2, 4, 6, 8])
    gate.set()
    for each in (first, *rest):
        error = each.exception(30)
        assert isinstance(error, Refused)
        assert (error.code, error.facts["reason"]) == ("unavailable", "not_committed")
    # The group, and one more to tell a broken request from a broken database.
    assert calls == [1, 4, 1]
    assert stored(things) == []
    writer.close()


def test_a_full_queue_refuses_by_its_code(
    things: Database, scribe: Scribe, pool: ThreadPoolExecutor
) -> None:
    writer = GroupCommit[int, int](things, scribe, most_waiting=2)
    scribe.gate.clear()
    first = pool.submit(writer.submit, 2)
    scribe.entered.acquire()
    rest = queue(pool, writer, [4, 6])
    with pytest.raises(Refused) as caught:
        writer.submit(8)
    assert (caught.value.code, caught.value.facts["reason"]) == ("unavailable", "queue_full")
    scribe.gate.set()
    assert [first.result(30), *(each.result(30) for each in rest)] == [20, 40, 60]
    writer.close()


def test_closing_serves_who_waits_and_nobody_else(
    things: Database, scribe: Scribe, pool: ThreadPoolExecutor
) -> None:
    writer = GroupCommit[int, int](things, scribe)
    scribe.gate.clear()
    first = pool.submit(writer.submit, 2)
    scribe.entered.acquire()
    rest = queue(pool, writer, [4, 6])
    closing = pool.submit(writer.close)
    until(lambda: _refuses(writer))
    scribe.gate.set()
    closing.result(30)
    assert [first.result(30), *(each.result(30) for each in rest)] == [20, 40, 60]
    assert stored(things) == [2, 4, 6]


def _refuses(writer: GroupCommit[int, int]) -> bool:
    if not writer._closed:
        return False
    with pytest.raises(Refused, match="shutting down"):
        writer.submit(8)
    return True


def test_what_a_group_leaves_over_heads_the_next(
    things: Database, pool: ThreadPoolExecutor
) -> None:
    groups: list[list[int]] = []
    gate = threading.Event()

    def two(session: Session, numbers: Sequence[int]) -> list[int | Exception]:
        groups.append(list(numbers))
        assert gate.wait(30)
        for number in numbers[:2]:
            session.execute(INSERT, {"number": number})
        return list(numbers[:2])

    writer = GroupCommit[int, int](things, two)
    first = pool.submit(writer.submit, 0)
    until(lambda: groups == [[0]])
    rest = queue(pool, writer, [1, 2, 3, 4, 5])
    gate.set()
    assert [first.result(30), *(each.result(30) for each in rest)] == [0, 1, 2, 3, 4, 5]
    assert groups == [[0], [1, 2, 3, 4, 5], [3, 4, 5], [5]]
    writer.close()


CRASHER = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import sqlalchemy as sa
from kit.db import Database
from kit.group import GroupCommit

database = Database(sys.argv[1])
insert = sa.text("INSERT INTO thing (number) VALUES (:number)")
groups = []

def work(session, numbers):
    for number in numbers:
        session.execute(insert, {"number": number})
    groups.append(numbers)
    if 5 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)  # built, not committed
    return list(numbers)

writer = GroupCommit(database, work)
for number in range(3):
    print(writer.submit(number), flush=True)
with ThreadPoolExecutor(8) as pool:
    for number in range(3, 11):
        # In one piece: `print` writes the end of a line by itself, after another thread's perhaps.
        pool.submit(lambda n=number: os.write(1, b"%d\\n" % writer.submit(n)))
"""


def test_a_crash_between_group_and_commit_leaves_whole_groups_and_no_false_answer(
    things: Database,
) -> None:
    url = things.url.render_as_string(hide_password=False)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CRASHER, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    answered = {int(line) for line in done.stdout.split()}
    assert {0, 1, 2} <= answered
    assert answered <= set(stored(things))
    assert 5 not in stored(things)


def test_a_writer_that_could_not_be_started_is_started_by_the_next(
    things: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine that had no room for a thread once; nobody may wait for it for ever."""

    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    group = GroupCommit[int, int](things, Scribe())
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(threading.Thread, "start", full)
        group.submit(2)
    answered: list[int] = []
    caller = threading.Thread(target=lambda: answered.append(group.submit(4)), daemon=True)
    caller.start()
    caller.join(20)
    assert answered == [40]
    group.close()
    assert stored(things) == [4]
