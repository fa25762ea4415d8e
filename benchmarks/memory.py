"""How much memory do the processes take at their peak, as the kernel counted it?"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import market as markets
from benchmarks.models import CNN, LR, MLP, Model
from benchmarks.report import REPOSITORY, Table
from benchmarks.timing import Sizes
from kit.process import free_port, spawn, stop
from kit.ragged import RaggedStore
from privacy_gateway.modelspec import measure
from tests.support.servers import wait_until
from worker.launcher import Sandbox
from worker.start import Execute, Start
from worker.zygote import Zygote

MIB = 1 << 20
ALLOWED = 600 * MIB


def ask(sizes: Sizes) -> Iterator[Table]:
    """A served gateway, then sandboxes."""
    table = Table(
        "memory",
        "peak resident memory",
        ("process", "MiB", "at start MiB", "allowed MiB", "of the allowed"),
    )
    for what, size in _gateway().items():
        table.add(what, size / MIB, None, None, None)
    zygote = Zygote()
    ways: dict[str, Start] = {"forked": zygote, "executed": Execute()}
    for model in (LR, MLP, CNN) if sizes.full else (LR, MLP):
        for way, begin in ways.items():
            with markets.scratch() as folder:
                most, start, allowed = _sandbox(model, folder, begin)
            share = most / allowed
            what = f"sandbox, {model.name}, {way}"
            table.add(what, most / MIB, start / MIB, allowed / MIB, share)
    table.add("warm parent of the forked ones", peak(zygote.pid or 0) / MIB, None, None, None)
    zygote.close()
    table.notes.append(
        "gateway after start and 200 requests; a sandbox is allowed 0.6 GB, its data and six times "
        "its parameters; resident memory counts mapped files and libraries that are shared"
    )
    yield table


def _sandbox(model: Model, folder: Path, begin: Start) -> tuple[int, int, float]:
    """Peak after three rounds of everybody, peak before them, and the target."""
    store = model.store(folder)
    opened = RaggedStore.open(store)
    with Sandbox(model.task(shards=2), store, start=begin) as sandbox:
        weights = sandbox.initial_weights()
        start = peak(sandbox.pid or 0)
        for number in range(3):
            sandbox.round(number, np.arange(opened.clients), weights)
        most = peak(sandbox.pid or 0)
    data = sum(path.stat().st_size for path in store.iterdir())
    return most, start, ALLOWED + data + 6 * 4 * measure(model.task().model).parameters


def _gateway() -> dict[str, int]:
    """Peaks of the processes of `up` on a fresh state."""
    with markets.scratch() as folder, _served(folder) as (url, pid):
        for _ in range(100):
            _get(f"{url}/readyz")
            _get(f"{url}/openapi.json")
        return {_name(child): peak(child) for child in [pid, *_below(pid)]}


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, int]]:
    """`up` until it is ready; yields its URL and process id."""
    port = free_port()
    command = [sys.executable, "-m", "gateway.cli", "up", "--port", str(port)]
    with (folder / "up.log").open("wb") as log:
        child = spawn(
            [*command, "--state", str(folder / "state")], cwd=REPOSITORY, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _get(f"{url}/readyz"), what="the gateway", seconds=120)
        yield url, child.pid
    finally:
        stop(child, grace_seconds=30)


def _get(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200 and answer.read() is not None)
    except OSError:
        return False


def _below(pid: int) -> list[int]:
    """All descendants of a process, in the order of their ids."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2]
            except OSError:
                continue
            parents[int(folder.name)] = int(after_name.split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def _name(pid: int) -> str:
    """What a process is for."""
    words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    names = {
        "up": "supervisor",
        "serve": "gateway",
        "worker": "worker, no job",
        "policies.child": "policy engine's child",
    }
    found = next((names[word] for word in words if word in names), None)
    return found or Path(os.fsdecode(words[0])).name.split(" ")[0]


def peak(pid: int) -> int:
    """VmHWM of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0
