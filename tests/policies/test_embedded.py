"""The embedded engine: whatever a policy does to its process, the next decision works."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policies.embedded import EmbeddedEngine
from policies.engine import DEADLINE_SECONDS, Revision
from policies.errors import Fault
from tests.support.engines import ENDLESS_SECONDS
from tests.support.questions import ALLOW_ALL, question
from tests.support.servers import wait_until

# What these decisions take is hundredths; half a second is not much where others compute too.
PATIENCE = 5.0
BOMB = (
    "count({[a, b, c] | some a in numbers.range(1, 2000);"
    " some b in numbers.range(1, 2000); some c in numbers.range(1, 2000)})"
)


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    """One child process, so that each test meets what the last one left."""
    made = EmbeddedEngine(1)
    assert made.health().ok
    yield made
    made.close()


def works(engine: EmbeddedEngine) -> bool:
    """Whether an ordinary decision comes out."""
    answer = engine.evaluate(Revision.of_text(ALLOW_ALL), question().canonical, PATIENCE)
    return answer.answer == {"allow": True, "deny": []}


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("f(x) := f(x + 1)\n\ndecision := f(1)", Fault.CRASHED),
        ("decision := count(numbers.range(1, 2000000000))", Fault.CRASHED),
        (f"decision := {BOMB}", Fault.TIMEOUT),
        ("decision := 1 / 0", Fault.EVALUATION_FAILED),
        ('decision := time.parse_rfc3339_ns("garbage")', Fault.EVALUATION_FAILED),
        ("decision := 1\n\ndecision := 2", Fault.EVALUATION_FAILED),
        ("decision := {", Fault.EVALUATION_FAILED),
        ("decision := no_such_function(1)", Fault.EVALUATION_FAILED),
        ("x := 1", Fault.UNDEFINED),
        ("decision if input.job.rounds > 1000", Fault.UNDEFINED),
        ("decision := numbers.range(1, 200000)", Fault.MALFORMED),
    ],
)
def test_a_bad_policy_is_a_fault_soon_and_the_next_decision_works(
    engine: EmbeddedEngine, rule: str, fault: Fault
) -> None:
    assert works(engine)
    seconds = DEADLINE_SECONDS if fault is Fault.TIMEOUT else PATIENCE
    revision = Revision.of_text(f"package p\n\n{rule}\n")
    started = time.monotonic()
    assert engine.evaluate(revision, question().canonical, seconds).fault is fault
    assert time.monotonic() - started < ENDLESS_SECONDS
    assert works(engine)


def test_a_killed_child_is_replaced(engine: EmbeddedEngine) -> None:
    assert works(engine)
    (pid,) = engine.pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine.evaluate(Revision.of_text(ALLOW_ALL), b"{}").fault is None, what="")
    assert engine.pids() != [pid]
    assert works(engine)


def test_a_stopped_child_is_given_up_at_the_deadline(engine: EmbeddedEngine) -> None:
    assert works(engine)
    (pid,) = engine.pids()
    os.kill(pid, signal.SIGSTOP)
    evaluation = engine.evaluate(Revision.of_text(ALLOW_ALL), question().canonical, 0.2)
    assert evaluation.fault is Fault.TIMEOUT
    assert works(engine)


def test_the_child_has_no_environment(engine: EmbeddedEngine) -> None:
    assert works(engine)
    (pid,) = engine.pids()
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    names = {entry.split(b"=")[0] for entry in entries if entry}
    assert names <= {b"PYTHONPATH", b"LC_ALL", b"RUST_BACKTRACE", b"MIMALLOC_ARENA_RESERVE"}


def test_the_child_can_open_no_more_files_than_it_needs_and_no_core(
    engine: EmbeddedEngine,
) -> None:
    (pid,) = engine.pids()
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    limits = {line[:25].strip(): line[25:].split() for line in lines}
    assert limits["Max open files"][:2] == ["16", "16"]
    assert limits["Max core file size"][:2] == ["0", "0"]
    assert limits["Max file size"][:2] == ["0", "0"]
    assert limits["Max address space"][0] != "unlimited"
    assert limits["Max cpu time"][0] != "unlimited"


def test_callers_at_once_get_their_own_answers() -> None:
    engine = EmbeddedEngine(2)
    revisions = [
        Revision.of_text(f'package p\n\ndecision := {{"allow": true, "deny": set(), "n": {n}}}\n')
        for n in range(8)
    ]

    def ask(number: int) -> bool:
        revision = revisions[number % 8]
        answer = engine.evaluate(revision, question().canonical, 60).answer
        return bool(answer["n"] == number % 8)

    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(ask, range(80)))
    finally:
        engine.close()


def test_a_busy_pool_says_so_at_the_deadline() -> None:
    engine = EmbeddedEngine(1)
    bomb = Revision.of_text(f"package p\n\ndecision := {BOMB}\n")
    try:
        assert works(engine)
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(engine.evaluate, bomb, question().canonical, 3)
            wait_until(lambda: not engine.pids(), what="the child being busy")
            evaluation = engine.evaluate(Revision.of_text(ALLOW_ALL), b"{}", 0.1)
            assert evaluation.fault is Fault.BUSY
            assert slow.result().fault is Fault.TIMEOUT
        assert works(engine)
    finally:
        engine.close()


def test_a_closed_engine_is_unreachable() -> None:
    engine = EmbeddedEngine(1)
    engine.close()
    assert engine.evaluate(Revision.of_text(ALLOW_ALL), b"{}").fault is Fault.UNREACHABLE
    assert not engine.health().ok


def test_closing_leaves_no_process() -> None:
    engine = EmbeddedEngine(1)
    assert works(engine)
    (pid,) = engine.pids()
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_policies_of_one_package_name_do_not_meet(engine: EmbeddedEngine) -> None:
    first = Revision.of_text('package p\n\ndecision := {"allow": true, "deny": set()}\n')
    second = Revision.of_text('package p\n\ndecision := {"allow": false, "deny": set()}\n')
    assert engine.evaluate(first, b"{}", PATIENCE).answer["allow"] is True
    assert engine.evaluate(second, b"{}", PATIENCE).answer["allow"] is False
    assert engine.evaluate(first, b"{}", PATIENCE).answer["allow"] is True


def test_tests_that_hang_fail_and_do_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.embedded.TESTS_SECONDS", 1.0)
    hurried = EmbeddedEngine(1, test_seconds=0.8)
    endless = "".join(f"test_{name} if {BOMB} == 0\n\n" for name in "abcd")
    try:
        report = hurried.test(ALLOW_ALL, f"package open_test\n\n{endless}")
        assert works(hurried)
    finally:
        hurried.close()
    assert len(report.failed) == 4
    assert "deadline" in report.failed[0].detail
    assert "took all the time" in report.failed[3].detail
