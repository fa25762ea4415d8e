"""The sandbox: what it gets, how it ends, and that only codes come out of it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kit import ragged
from tests.support.servers import wait_until
from tests.worker import engine
from worker import start
from worker.aggregate import ServerOptimizer, ServerState, run_round
from worker.launcher import FailureCode, Limits, Sandbox, SandboxFailed
from worker.noise import NoiseSource
from worker.sampling import draw_cohort
from worker.start import Execute, Start
from worker.zygote import Zygote

pytestmark = pytest.mark.tensorflow

SIZES = [5, 0, 1, 9, 4, 12, 3, 7]
EVERYBODY = np.arange(len(SIZES))


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    engine.store(tmp_path / "train", SIZES)
    engine.store(tmp_path / "test", [1] * 20)
    return tmp_path / "train", tmp_path / "test"


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", "postgresql://owner:secret@db/ledger")
        warm = Zygote()
        warm.start()
    yield warm
    warm.close()


@pytest.fixture(params=["zygote", "exec"])
def way(request: pytest.FixtureRequest, zygote: Zygote) -> Start:
    """Both ways to begin a sandbox; what holds for one must hold for the other."""
    return zygote if request.param == "zygote" else Execute()


@pytest.fixture
def sandbox(
    stores: tuple[Path, Path], way: Start, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    monkeypatch.setenv("DATABASE_URL", "postgresql://owner:secret@db/ledger")
    with Sandbox(engine.task(), stores[0], test_store=stores[1], start=way) as running:
        yield running


@pytest.fixture
def warm(stores: tuple[Path, Path], zygote: Zygote) -> Iterator[Sandbox]:
    with Sandbox(engine.task(), stores[0], test_store=stores[1], start=zygote) as running:
        yield running


def _failed(code: FailureCode) -> "pytest.RaisesExc[SandboxFailed]":
    return pytest.raises(SandboxFailed, match=f"^{code}$")


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_client_with_many_examples_takes_no_more_memory_than_one_with_few(
    tmp_path: Path, zygote: Zygote
) -> None:
    """Otherwise a job with a large batch would fail only if somebody has many: a free answer."""
    sizes = [3, 400]
    rows = {
        "features": np.ones((sum(sizes), 784), np.float32),
        "label": np.zeros(sum(sizes), np.int32),
    }
    ragged.write(tmp_path / "store", rows, sizes)
    wide = {
        "input": {"shape": [28, 28, 1]},
        "layers": [
            {"type": "Conv2D", "filters": 1024, "kernel_size": [1, 1], "activation": "relu"},
            {"type": "GlobalAveragePooling2D"},
            {"type": "Dense", "units": 3},
        ],
    }
    task = engine.task(wide, batch_size=4096)
    limits = Limits(memory_bytes=3 << 30)
    with Sandbox(task, tmp_path / "store", limits=limits, start=zygote) as running:
        weights = running.initial_weights()
        for client in (0, 1):
            assert any(s.any() for s in running.round(0, np.array([client]), weights))


def test_a_job_runs_and_evaluates(sandbox: Sandbox) -> None:
    weights = sandbox.initial_weights()
    sums = sandbox.round(0, EVERYBODY, weights)
    assert [s.shape for s in sums] == [w.shape for w in weights] == [(6, 3), (3,)]
    assert any(s.any() for s in sums)
    metrics = sandbox.evaluate(weights)
    assert set(metrics) == {"loss", "accuracy", "examples"}
    assert not any(s.any() for s in sandbox.round(1, EVERYBODY[:0], weights))


def test_without_a_client_store_it_evaluates_and_trains_nothing(
    warm: Sandbox, zygote: Zygote, stores: tuple[Path, Path]
) -> None:
    weights = warm.initial_weights()
    with Sandbox(warm.task, None, test_store=stores[1], start=zygote) as evaluating:
        assert evaluating.evaluate(weights) == warm.evaluate(weights)
        with pytest.raises(SandboxFailed):
            evaluating.round(0, EVERYBODY, weights)


def _held(process: Path) -> dict[int, tuple[str, int]]:
    """Of each descriptor what it names and its flags.

    After its first answer a sandbox still imports modules: their files come and go meanwhile.
    """
    held = {}
    for link in process.joinpath("fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            told = process.joinpath("fdinfo", link.name).read_text()
            held[int(link.name)] = str(link.readlink()), int(told.split("flags:")[1].split()[0], 8)
    return held


def test_the_child_has_no_secret_no_path_and_no_way_up(sandbox: Sandbox) -> None:
    process = Path(f"/proc/{sandbox.pid}")
    environment = process.joinpath("environ").read_text()
    assert "secret" not in environment
    names = {entry.partition("=")[0] for entry in environment.split("\0") if entry}
    # The loader cuts its own options at their colons where they stand.
    assert {name for name in names if not name.startswith("glibc.malloc.")} == set(
        start.environment()
    )
    status = process.joinpath("status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status
    held = _held(process)
    assert not [name for name, _ in held.values() if name.startswith("socket:")]
    stored = [flags for name, flags in held.values() if name.endswith(".bin")]
    assert stored
    assert all(flags & os.O_ACCMODE == os.O_RDONLY for flags in stored)
    limits = process.joinpath("limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core"))
    assert core.split()[4] == "0"
    assert "unlimited" not in next(line for line in limits.splitlines() if "address space" in line)


def test_killed_in_the_middle_says_a_code_and_leaves_nothing(sandbox: Sandbox) -> None:
    weights = sandbox.initial_weights()
    pid = sandbox.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with _failed(FailureCode.CRASHED):
        sandbox.round(0, EVERYBODY, weights)
    wait_until(lambda: _gone(pid), what="its end")
    with _failed(FailureCode.CRASHED):
        sandbox.evaluate(weights)


def test_a_deadline_ends_a_child_that_hangs(stores: tuple[Path, Path], way: Start) -> None:
    limits = Limits(call_seconds=0.2)
    with Sandbox(engine.task(), stores[0], limits=limits, start=way) as sandbox:
        pid = sandbox.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with _failed(FailureCode.DEADLINE):
            sandbox.initial_weights()
        wait_until(lambda: _gone(pid), what="its end")


def test_kill_from_another_thread_ends_a_call(warm: Sandbox) -> None:
    weights = warm.initial_weights()
    assert warm.pid is not None
    os.kill(warm.pid, signal.SIGSTOP)
    killer = threading.Timer(0.1, warm.kill)
    killer.start()
    with _failed(FailureCode.CRASHED):
        warm.round(0, EVERYBODY, weights)
    killer.join()


def test_an_error_gives_a_code_and_its_text_goes_to_the_operator_only(
    stores: tuple[Path, Path], tmp_path: Path, way: Start
) -> None:
    log = tmp_path / "sandbox.log"
    # A column that does not exist stands for whatever can go wrong inside.
    job = engine.task(label="private_diagnosis")
    with (
        pytest.raises(SandboxFailed) as caught,
        Sandbox(job, stores[0], log_path=log, start=way),
    ):
        pass
    assert str(caught.value) == "model_failed"
    assert caught.value.args == ("model_failed",)
    assert "private_diagnosis" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_full_log_changes_no_code_and_is_put_aside(
    stores: tuple[Path, Path], tmp_path: Path, zygote: Zygote
) -> None:
    log = tmp_path / "sandbox.log"
    job = engine.task(label="absent")
    for size, limit in ((90, 100), (90, 1 << 20)):
        log.write_bytes(b"x" * size)
        with (
            _failed(FailureCode.MODEL_FAILED),
            Sandbox(job, stores[0], limits=Limits(log_bytes=limit), log_path=log, start=zygote),
        ):
            pass
    assert (tmp_path / "sandbox.log.1").stat().st_size == 90
    assert "absent" in log.read_text()


def test_too_little_memory_is_a_code(stores: tuple[Path, Path], way: Start) -> None:
    limits = Limits(memory_bytes=200 << 20)
    with (
        pytest.raises(SandboxFailed) as caught,
        Sandbox(engine.task(), stores[0], limits=limits, start=way),
    ):
        pass
    assert caught.value.code in {
        FailureCode.OUT_OF_MEMORY,
        FailureCode.MODEL_FAILED,
        FailureCode.CRASHED,
    }


def test_a_missing_store_is_a_code(tmp_path: Path) -> None:
    with _failed(FailureCode.START_FAILED), Sandbox(engine.task(), tmp_path / "nowhere"):
        pass


@pytest.mark.parametrize("begin", ["Execute()", "Zygote()"])
def test_an_orphan_ends_by_itself(stores: tuple[Path, Path], begin: str) -> None:
    program = f"""
import os, sys
from pathlib import Path
from tests.worker import engine
from worker.launcher import Sandbox
from worker.start import Execute
from worker.zygote import Zygote
begin = {begin}
sandbox = Sandbox(engine.task(), Path({str(stores[0])!r}), start=begin).__enter__()
print(sandbox.pid, getattr(begin, "pid", sandbox.pid), flush=True)
os.kill(os.getpid(), 9)
"""
    path = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": path}
    )
    pids = [int(word) for word in parent.stdout.splitlines()[-1].split()]
    wait_until(lambda: all(_gone(pid) or _state(pid) == "Z" for pid in pids), what="its end")


def test_a_parent_that_is_killed_takes_its_children_along_and_is_replaced(
    stores: tuple[Path, Path],
) -> None:
    parent = Zygote()
    try:
        with Sandbox(engine.task(), stores[0], start=parent) as sandbox:
            weights = sandbox.initial_weights()
            first = parent.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            with _failed(FailureCode.CRASHED):
                sandbox.round(0, EVERYBODY, weights)
        with Sandbox(engine.task(), stores[0], start=parent) as sandbox:
            assert any(s.any() for s in sandbox.round(0, EVERYBODY, weights))
            assert parent.pid != first
    finally:
        parent.close()


def test_children_of_one_parent_end_one_by_one_and_are_reaped(
    zygote: Zygote, stores: tuple[Path, Path]
) -> None:
    with Sandbox(engine.task(), stores[0], start=zygote) as first:
        with Sandbox(engine.task(), stores[0], start=zygote) as second:
            gone = second.pid
            assert gone is not None
            assert gone != first.pid
        wait_until(lambda: _gone(gone), what="its end")
        assert first.initial_weights()


def test_both_ways_and_bubblewrap_give_the_same_bits(
    zygote: Zygote, stores: tuple[Path, Path]
) -> None:
    ways: list[Start] = [zygote, Execute(bubblewrap=True)]
    sums = []
    for begin in ways:
        with Sandbox(engine.task(engine.HIDDEN), stores[0], start=begin) as sandbox:
            sums.append(sandbox.round(3, EVERYBODY, sandbox.initial_weights()))
    for one, other in zip(*sums, strict=True):
        np.testing.assert_array_equal(one, other)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _train(
    stores: tuple[Path, Path], begin: Start, shards: int, *, resume: bool = False
) -> list[np.ndarray]:
    """Four rounds under an injected key, perhaps with a new sandbox in the middle."""
    job = engine.task(engine.HIDDEN, shards=shards)
    key = NoiseSource(bytes(range(32)))
    state: ServerState | None = None
    for part in ((0, 1), (2, 3)) if resume else ((0, 1, 2, 3),):
        with Sandbox(job, stores[0], start=begin) as sandbox:
            state = state or ServerState(sandbox.initial_weights())
            for number in part:
                cohort = draw_cohort("poisson", len(SIZES), 6, key.derive(f"{number}/cohort"))
                state = run_round(
                    state,
                    sandbox.round(number, cohort, state.weights),
                    clients=len(cohort),
                    clip_norm=job.clip_norm,
                    noise_multiplier=0.5,
                    denominator=6,
                    optimizer=ServerOptimizer("adam", 0.1),
                    source=key.derive(f"{number}/noise"),
                )
        shapes = [w.shape for w in state.weights]
        state = ServerState.from_bytes(state.to_bytes(), shapes)
    assert state is not None
    return state.weights


def test_threads_and_resuming_change_no_bit(stores: tuple[Path, Path], zygote: Zygote) -> None:
    alone = _train(stores, zygote, 1)
    for other in (_train(stores, zygote, 2), _train(stores, zygote, 1, resume=True)):
        for first, second in zip(alone, other, strict=True):
            np.testing.assert_array_equal(first, second)


class _Hostile(Sandbox):
    """A child whose answers are made up."""

    answers: tuple[dict[str, object], list[np.ndarray]]

    def _call(self, *_, **__):  # type: ignore[no-untyped-def]
        return self.answers


@pytest.mark.parametrize(
    "sums",
    [
        [np.zeros((6, 3), np.int64)],
        [np.zeros((3, 6), np.int64), np.zeros(3, np.int64)],
        [np.zeros((6, 3), np.float32), np.zeros(3, np.int64)],
        [np.full((6, 3), 1 << 40, np.int64), np.zeros(3, np.int64)],
    ],
)
def test_a_sum_that_cannot_be_is_a_broken_protocol(tmp_path: Path, sums: list[np.ndarray]) -> None:
    hostile = _Hostile(engine.task(), tmp_path)
    hostile.answers = ({"ok": True}, sums)
    with _failed(FailureCode.PROTOCOL):
        hostile.round(0, EVERYBODY, [])


@pytest.mark.parametrize("metrics", [None, [], {"accuracy": "x"}, {"a": True}, {"a": [1.0] * 9}])
def test_metrics_are_numbers_or_a_broken_protocol(tmp_path: Path, metrics: object) -> None:
    hostile = _Hostile(engine.task(), tmp_path)
    hostile.answers = ({"ok": True, "metrics": metrics}, [])
    with _failed(FailureCode.PROTOCOL):
        hostile.evaluate([])


def test_no_file_of_the_machine_can_keep_a_sandbox_from_starting() -> None:
    """Keras reads a configuration wherever it is told its home is, if there is one."""
    given = start.environment()
    for name in ("HOME", "KERAS_HOME"):
        with pytest.raises(NotADirectoryError):
            Path(given[name]).mkdir(parents=True)
