"""What the coordinator does while a real sandbox computes a round, and what becomes of both."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.servers import wait_until
from tests.worker import engine
from worker.launcher import FailureCode, Limits, Sandbox, SandboxFailed
from worker.zygote import Zygote

pytestmark = pytest.mark.tensorflow
SIZES = [5, 0, 9, 4]
EVERYBODY = np.arange(len(SIZES))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def sandbox(tmp_path: Path, zygote: Zygote) -> Iterator[Sandbox]:
    engine.store(tmp_path / "store", SIZES)
    with Sandbox(engine.task(), tmp_path / "store", start=zygote) as made:
        yield made


def state(pid: int) -> str:
    """As the kernel calls it: R, S, T (stopped)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_it_is_called_once_while_the_round_is_computed(sandbox: Sandbox) -> None:
    weights, pid, calls = sandbox.initial_weights(), sandbox.pid, list[str]()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state(pid) == "T", what="a child that stands still")

    def meanwhile() -> None:
        calls.append(state(pid))
        os.kill(pid, signal.SIGCONT)

    sums = sandbox.round(0, EVERYBODY, weights, None, meanwhile)
    assert calls == ["T"]  # so it had not answered
    for one, other in zip(sums, sandbox.round(0, EVERYBODY, weights), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_takes_nothing_of_the_childs_time(tmp_path: Path, zygote: Zygote) -> None:
    """Else a database that is slow would be told as a sandbox that was, which is paid for."""
    engine.store(tmp_path / "store", SIZES)
    seconds = 3.0
    limits = Limits(call_seconds=seconds)
    with Sandbox(engine.task(), tmp_path / "store", limits=limits, start=zygote) as sandbox:
        weights = sandbox.initial_weights()
        sums = sandbox.round(0, EVERYBODY, weights, None, lambda: time.sleep(seconds + 0.1))
        assert any(part.any() for part in sums)
        os.kill(sandbox.pid or 0, signal.SIGSTOP)
        with pytest.raises(SandboxFailed) as failed:
            sandbox.round(1, EVERYBODY, weights, None, lambda: time.sleep(0.1))
        assert failed.value.code is FailureCode.DEADLINE


@pytest.mark.parametrize("trouble", [MemoryError(), OSError(), KeyboardInterrupt()], ids=repr)
def test_what_fails_meanwhile_is_not_the_childs_doing_and_ends_it(
    sandbox: Sandbox, trouble: BaseException
) -> None:
    """Its answer was never read, and would be taken for that to the next question."""
    weights, pid = sandbox.initial_weights(), sandbox.pid

    def fail() -> None:
        raise trouble

    with pytest.raises(type(trouble)) as caught:
        sandbox.round(0, EVERYBODY, weights, None, fail)
    assert caught.value is trouble
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="its end")
    with pytest.raises(SandboxFailed) as failed:
        sandbox.round(0, EVERYBODY, weights)
    assert failed.value.code is FailureCode.CRASHED
