"""Starts the sandbox and talks to it: the wall between secrets and TensorFlow.

One child per job (`worker.start`, `worker.zygote`) with an environment with nothing in it but what
TensorFlow needs, read-only descriptors of the client store and two pipes, locked up by itself
before it reads a frame. It has no credential, no key, no path of the store, no database. What comes
back is read with fixed size limits and typed; of a failure only a code leaves this module. The
child's error text goes to a file for the operator and never to a researcher.

Linux tells an executed child of the death of the *thread* that started it: enter the context from
a thread that lives as long as the job.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kit import ragged, ragged_subset
from kit.ragged import Manifest
from kit.ragged_subset import Subset
from privacy_gateway.modelspec import size_of
from worker.aggregate import AggregateInvalid, Weights, check_count, check_sum, check_weights
from worker.frames import Channel, DeadlinePassed, FrameBroken, PeerGone
from worker.start import Child, Ends, Execute, Start, tasks_of_account
from worker.task import TrainingTask
from worker.trainers import nothing
from worker.training.confine import Bounds

_STORES = ("train", "test")


class FailureCode(StrEnum):
    """All that is ever said about a sandbox that failed."""

    START_FAILED = "start_failed"
    MODEL_FAILED = "model_failed"
    TRAINING_FAILED = "training_failed"
    OUT_OF_MEMORY = "out_of_memory"
    DEADLINE = "deadline"
    CRASHED = "crashed"
    PROTOCOL = "protocol"


class SandboxFailed(Exception):
    """The sandbox is gone. Carries a code and nothing else; the message is the code."""

    def __init__(self, code: FailureCode) -> None:
        super().__init__(str(code))
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use.

    Attributes:
        memory_bytes: address space (RLIMIT_AS); the mapped store comes on top.
        cpu_seconds: processor time from its begin to its end (RLIMIT_CPU).
        log_bytes: largest file it may write (RLIMIT_FSIZE), its error text included.
        start_seconds: deadline for importing TensorFlow and building the model.
        call_seconds: deadline of a round or an evaluation.
    """

    memory_bytes: int = 12 << 30
    cpu_seconds: int = 24 * 3600
    log_bytes: int = 1 << 20
    start_seconds: float = 180.0
    call_seconds: float = 3600.0


class Sandbox:
    """One training child, as a context manager; leaving it kills the child whatever happened.

    Every method raises SandboxFailed, after which the child is dead and the object is of no use.
    Not thread-safe, except `kill`.
    """

    def __init__(
        self,
        task: TrainingTask,
        store: Path | Subset | None,
        *,
        test_store: Path | None = None,
        limits: Limits | None = None,
        log_path: Path | None = None,
        start: Start | None = None,
    ) -> None:
        """Prepare, without starting.

        Args:
            task: what to train, see `worker.task`.
            store: directory of the training clients' `kit.ragged` store, or some of its clients;
                None where the child may train nothing.
            test_store: directory of the public test set, for `evaluate`.
            limits: resources and deadlines; defaults of `Limits`.
            log_path: file for the child's error text, operator only (mode 0600); None discards it.
            start: how it begins; executed afresh by default.
        """
        self.task = task
        self.size = size_of(task.model)
        self._stores: dict[str, Path | Subset | None] = {"train": store, "test": test_store}
        self._limits = limits or Limits()
        self._log_path = log_path
        self._begin = start or Execute()
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._exit = contextlib.ExitStack()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None before the start."""
        return self._child.pid if self._child else None

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._limits.start_seconds
        try:
            self._start(deadline)
        except (OSError, ragged.StoreDamaged):
            self.close()
            raise SandboxFailed(FailureCode.START_FAILED) from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def initial_weights(self) -> Weights:
        """First weights of the model, from the task's public seed; float32, Keras order."""
        _, arrays = self._call({"command": "initial_weights"})
        return self._checked(arrays)

    def round(
        self,
        round_number: int,
        clients: npt.NDArray[np.int64],
        weights: Weights,
        clip_norm: float | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> list[npt.NDArray[np.int64]]:
        """Train a cohort from `weights` and sum its clipped updates.

        Args:
            round_number: seeds shuffling and dropout, together with the client.
            clients: positions in the store, int64; may be empty.
            weights: the current model.
            clip_norm: C of this round where it adapts; the task's otherwise.
            meanwhile: called once, while the child computes. What it raises is raised here, and the
                child is dead: its answer was never read.

        Returns:
            Per weight array the int64 sum on the grid C/2²⁰, shapes and bound checked, and after
            them the count of a task that counts clients within C. It is raw:
            hand it to `worker.aggregate.run_round` and to nothing else.
        """
        # An empty cohort is answered here by the same path: timing must not tell.
        command: dict[str, Any] = {"command": "round", "round": round_number}
        if clip_norm is not None:
            command["clip_norm"] = clip_norm
        given: list[npt.NDArray[Any]] = [clients.astype(np.int64), *weights]
        _, arrays = self._call(command, given, meanwhile=meanwhile)
        try:
            counts = arrays[-1:] if self.task.count_unclipped else []
            sums = arrays[: len(arrays) - len(counts)]
            check_sum(sums, self.task.sum_shapes, len(clients))
            for count in counts:
                check_count(count, len(clients))
        except AggregateInvalid:
            raise self._failed(FailureCode.PROTOCOL) from None
        return arrays

    def evaluate(self, weights: Weights) -> dict[str, float]:
        """Loss and metrics on the public test set; empty when there is none."""
        header, arrays = self._call({"command": "evaluate"}, weights)
        metrics = header.get("metrics")
        if arrays or not isinstance(metrics, dict) or len(metrics) > 16:
            raise self._failed(FailureCode.PROTOCOL)
        if any(type(value) not in {int, float} for value in metrics.values()):
            raise self._failed(FailureCode.PROTOCOL)
        return {str(name)[:64]: float(value) for name, value in metrics.items()}

    def kill(self) -> None:
        """End the child now; safe from any thread, any number of times."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """Kill the child and see it gone."""
        self.kill()
        if self._child is not None:
            self._child.wait()
        self._channel = None
        self._exit.close()

    def _start(self, deadline: float) -> None:
        (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
        for end in (our_read, our_write):
            os.set_blocking(end, False)
            self._exit.callback(os.close, end)
        with contextlib.ExitStack() as during_start:
            for end in (their_read, their_write):
                during_start.callback(os.close, end)
            stores = self._open_stores(during_start)
            log = during_start.enter_context(self._open_log())
            files = [
                number for store in stores.values() for number in store["descriptors"].values()
            ]
            self._child, numbers = self._begin(
                self._bounds(files),
                Ends(their_read, their_write, log.fileno(), files),
                deadline=deadline,
            )
        renumbered = dict(zip(files, numbers, strict=True))
        for store in stores.values():
            named = store["descriptors"].items()
            store["descriptors"] = {name: renumbered[number] for name, number in named}
        # A frame holds at most the weights twice over: sums are int64.
        max_bytes = 8 * self.size.parameters + (1 << 16)
        self._channel = Channel(our_read, our_write, max_bytes=max_bytes)
        command = {"command": "configure", "task": self.task.as_dict(), "stores": stores}
        self._call(command, deadline=deadline)

    def _open_stores(self, stack: contextlib.ExitStack) -> dict[str, dict[str, Any]]:
        """Manifest and read-only descriptors of each store."""
        described: dict[str, dict[str, Any]] = {}
        for name in _STORES:
            store = self._stores[name]
            if store is not None:
                manifest, files = stack.enter_context(_descriptors(store))
                described[name] = {"manifest": manifest.canonical(), "descriptors": files}
        return described

    def _open_log(self) -> Any:
        """The operator's file, or nowhere."""
        if self._log_path is None:
            return Path(os.devnull).open("wb")
        # The child's file limit counts from the start of the file, so a long one is put aside.
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > self._limits.log_bytes // 2:
                self._log_path.replace(self._log_path.with_name(f"{self._log_path.name}.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.fdopen(os.open(self._log_path, flags, 0o600), "ab")

    def _bounds(self, files: Sequence[int]) -> Bounds:
        """The mapped stores come on top of the memory."""
        mapped = sum(os.fstat(number).st_size for number in files)
        return Bounds(
            memory_bytes=self._limits.memory_bytes + mapped,
            cpu_seconds=self._limits.cpu_seconds,
            file_bytes=self._limits.log_bytes,
            tasks=tasks_of_account(),
        )

    def _call(
        self,
        header: dict[str, Any],
        arrays: Sequence[npt.NDArray[Any]] = (),
        *,
        deadline: float | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
        """One question, one answer; every way of the child to fail becomes a code."""
        channel = self._channel
        if channel is None:
            raise SandboxFailed(FailureCode.CRASHED)
        by = deadline or time.monotonic() + self._limits.call_seconds
        with self._exchange():
            channel.send(header, arrays, deadline=by)
        by += self._aside(meanwhile)
        with self._exchange():
            answer, answered = channel.receive(deadline=by)
        if answer.get("ok") is not True:
            raise self._failed(_code_of(answer.get("code")))
        return answer, answered

    def _aside(self, meanwhile: Callable[[], None]) -> float:
        """Do it, and say how many seconds it took: they are none of the child's."""
        began = time.monotonic()
        try:
            meanwhile()
        except BaseException:
            self.close()
            raise
        return time.monotonic() - began

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        """Half of a call: what goes wrong in it is the child's doing."""
        try:
            yield
        except DeadlinePassed:
            raise self._failed(FailureCode.DEADLINE) from None
        except PeerGone:
            raise self._failed(FailureCode.CRASHED) from None
        except (FrameBroken, MemoryError, OSError):
            raise self._failed(FailureCode.PROTOCOL) from None

    def _failed(self, code: FailureCode) -> SandboxFailed:
        """Kill first: a child that failed once gets no second chance."""
        self.close()
        return SandboxFailed(code)

    def _checked(self, arrays: list[npt.NDArray[Any]]) -> Weights:
        try:
            return check_weights(arrays, self.size.weight_shapes)
        except AggregateInvalid:
            raise self._failed(FailureCode.PROTOCOL) from None


def _descriptors(store: Path | Subset) -> AbstractContextManager[tuple[Manifest, dict[str, int]]]:
    """All of a store, or of some of its clients."""
    if isinstance(store, Subset):
        return ragged_subset.descriptors(store)
    return ragged.descriptors(store)


def _code_of(given: Any) -> FailureCode:
    """A code the child may choose among its own; anything else is a broken protocol."""
    own = (
        FailureCode.START_FAILED,
        FailureCode.MODEL_FAILED,
        FailureCode.TRAINING_FAILED,
        FailureCode.OUT_OF_MEMORY,
    )
    return next((code for code in own if code == given), FailureCode.PROTOCOL)
