"""The harness of the peers' benchmark without any peer: what they are given, and arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from benchmarks.peers import bars, compare, environments, race, workload
from benchmarks.peers.engine import EngineFailed, Turn, descendants, engine, processor_seconds
from benchmarks.peers.inside.conversation import Given
from benchmarks.report import Table
from kit.ragged import RaggedStore
from worker.task import GRID
from worker.training import clients as cohort_clients

PEER = """
import sys
sys.path.insert(0, {inside!r})
from conversation import answer
import numpy as np, subprocess

def fail():
    raise ValueError("a client was lost")

def busy():
    subprocess.run([sys.executable, "-c", "x = sum(k * k for k in range(3_000_000))"], check=True)
    return []

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("noise of a framework")
acts = {{"sum": lambda: [np.ones((2, 2)), np.zeros(1)], "fail": fail, "busy": busy}}
answer(acts, {{"peer": "1.0"}})
"""


@pytest.fixture
def peer(tmp_path: Path) -> list[str]:
    script = tmp_path / "peer.py"
    script.write_text(PEER.format(inside=str(race.INSIDE)), encoding="utf-8")
    return [sys.executable, str(script)]


@pytest.mark.parametrize("name", ["LR", "CNN", "LSTM"])
def test_exported_rows_are_the_engines_own_of_round_0(name: str, tmp_path: Path) -> None:
    model = workload.MODELS[name]
    store = RaggedStore.open(model.store(tmp_path, divided_by=100))
    weights = [np.full((3, 2), 0.5, np.float32), np.zeros(2, np.float32)]
    workload.export(model.task(), store, weights, tmp_path / "given")
    given = Given(tmp_path / "given")
    task = model.task()
    assert given.clients == store.clients == 4
    for client in range(store.clients):
        (part,) = cohort_clients.slices(
            store,
            np.array([client]),
            columns=(task.features, task.label),
            cap=task.examples_per_client,
            seed=task.initial_seed,
            round_number=workload.ROUND,
        )
        features, labels = given.client(client)
        assert features.shape[1:] == task.model.input.shape
        np.testing.assert_array_equal(features.reshape(len(labels), -1), part.features)
        np.testing.assert_array_equal(labels, part.labels)
    for read, written in zip(given.weights, weights, strict=True):
        np.testing.assert_array_equal(read, written)


def test_a_peer_is_told_the_whole_task(tmp_path: Path) -> None:
    model = workload.MODELS["CNN"]
    store = RaggedStore.open(model.store(tmp_path, divided_by=100))
    workload.export(model.task(), store, [], tmp_path / "given")
    told = json.loads((tmp_path / "given" / "task.json").read_text(encoding="utf-8"))
    task = model.task()
    assert told["batch_size"] == task.batch_size
    assert told["learning_rate"] == task.client_optimizer.learning_rate
    assert told["clip_norm"] == task.clip_norm
    assert [layer["type"] for layer in told["layers"]] == [la.type for la in task.model.layers]
    assert told["layers"][0]["filters"] == 32


def test_distance_is_relative_to_the_second() -> None:
    assert compare.distance(np.array([3.0, 0.0]), np.array([4.0, 0.0])) == 0.25
    assert compare.distance(np.zeros(2), np.zeros(2)) == 0.0
    assert compare.distance(np.ones(2), np.zeros(2)) == 1.0
    with pytest.raises(ValueError, match="Expected 3 numbers"):
        compare.distance(np.zeros(2), np.zeros(3))


def test_the_grids_error_is_told_apart_from_the_arithmetics() -> None:
    exact = np.array([1.0, 2.0, 2.0])
    table = Table("sums", "", ("model", "clip", "sum", "beside", "distance"))
    ours = {
        compare.NO: {compare.OURS: exact + np.array([3e-6, 0, 0]), compare.DOUBLE: exact},
        compare.YES: {
            compare.GRID: exact + np.array([0, 3e-3, 0]),
            compare.OURS: exact,
            compare.DOUBLE: exact,
        },
    }
    theirs = {
        compare.NO: {compare.TFF: exact - np.array([3e-6, 0, 0]), compare.TFF_DOUBLE: exact},
        compare.YES: {compare.TFF: exact},
    }
    compare.add_rows(table, "LR", ours, theirs)
    told = {row[1:4]: row[4] for row in table.rows}
    assert told[compare.NO, compare.OURS, compare.TFF] == pytest.approx(2e-6, rel=1e-3)
    assert told[compare.NO, compare.OURS, compare.DOUBLE] == pytest.approx(1e-6, rel=1e-3)
    assert told[compare.NO, compare.TFF_DOUBLE, compare.DOUBLE] == 0
    assert told[compare.YES, compare.OURS, compare.TFF] == 0
    assert told[compare.YES, compare.GRID, compare.OURS] == pytest.approx(1e-3, rel=1e-3)
    assert (compare.NO, compare.GRID, compare.OURS) not in told


def test_rows_hold_medians_and_ratios_to_the_whole_round() -> None:
    turns = {
        race.TFF: [Turn(10.0, 20.0), Turn(99.0, 99.0), Turn(8.0, 16.0)],
        race.WHOLE: [Turn(0.5, 0.8), Turn(0.4, 0.7), Turn(0.6, 9.0)],
    }
    tff, whole = race.rows("LR", 100, turns)
    assert tff == ("LR", race.TFF, 10.0, 20.0, 5.0, 25.0, 20.0)
    assert whole == ("LR", race.WHOLE, 200.0, 1.0, 125.0, 1.0, None)


def test_every_process_of_a_race_is_asked_for_what_it_can_do() -> None:
    asked = {racer.process for racer in race.RACERS}
    assert asked == {"naive", "alone", "whole", *environments.PEERS}
    for name, targets in race.TARGETS.items():
        assert name in workload.MODELS
        assert set(targets) <= {racer.name for racer in race.RACERS}


def test_bars_are_taken_from_one_column_of_the_table() -> None:
    table = Table("peers", "", ("model", "engine", "clients/s", "clients/cpu-s"))
    for row in (("LR", "a", 1.0, 2.0), ("LR", "b", 3.0, None), ("CNN", "a", 5.0, 6.0)):
        table.add(*row)
    lr, cnn = bars.groups_of(table, "clients/cpu-s")
    assert (lr.name, lr.bars) == ("LR", (("a", 2.0),))
    assert (cnn.name, cnn.bars) == ("CNN", (("a", 6.0),))


def test_bars_grow_with_the_logarithm(tmp_path: Path) -> None:
    groups = [bars.Group("LR", (("a", 1.0), ("b", 10.0), ("c <&>", 100.0)))]
    drawn = ET.parse(bars.draw(tmp_path / "p.svg", groups, title="Rates")).getroot()
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.attrib["width"]) for bar in drawn.iter(f"{space}rect")]
    assert widths[0] == 0
    assert widths[2] == pytest.approx(2 * widths[1], abs=0.2)
    assert "c <&>" in {text.text for text in drawn.iter(f"{space}text")}
    with pytest.raises(ValueError, match="positive"):
        bars.draw(tmp_path / "q.svg", [bars.Group("LR", (("a", 0.0),))], title="")


def test_an_engine_answers_and_nothing_of_it_stays(peer: list[str]) -> None:
    others = set(descendants(os.getpid()))  # servers of other tests
    with engine(peer, {}) as started:
        assert started.versions == {"peer": "1.0"}
        np.testing.assert_array_equal(started.total("sum"), [1, 1, 1, 1, 0])
        family = set(descendants(os.getpid())) - others
        assert len(family) >= 2
        with pytest.raises(EngineFailed, match="ValueError: a client was lost"):
            started.turn("fail")
        assert started.turn("busy", 2).processor_seconds > 0
    deadline = time.monotonic() + 60
    while (still := family & set(descendants(os.getpid()))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not still


@pytest.mark.slow
@pytest.mark.tensorflow
def test_sums_off_the_grid_differ_from_the_engines_by_truncation_alone(tmp_path: Path) -> None:
    given = workload.prepare(workload.MODELS["LR"], tmp_path, divided_by=25)
    pythons = dict.fromkeys(environments.PEERS, Path(sys.executable))
    started = race.commands(given, pythons)["exact"]
    with engine(started, {}) as running:
        ours = compare.our_sums(running)
    with engine(started, {}) as running:
        # Also where no float32 model was made before it.
        np.testing.assert_array_equal(running.total("double"), ours[compare.NO][compare.DOUBLE])
    grid, clipped = ours[compare.YES][compare.GRID], ours[compare.YES][compare.OURS]
    # Each number of each client is cut by less than one step of C/2²⁰, towards zero.
    assert np.abs(grid - clipped).max() < given.clients * workload.CLIP / GRID * 1.01
    assert np.linalg.norm(grid) < np.linalg.norm(clipped)
    for clip in (compare.NO, compare.YES):
        assert compare.distance(ours[clip][compare.OURS], ours[clip][compare.DOUBLE]) < 1e-5
    # The clip was at work.
    assert compare.distance(ours[compare.NO][compare.OURS], clipped) > 0.1


def test_an_engine_that_cannot_start_says_why() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such framework')"]
    with pytest.raises(EngineFailed, match="no such framework"), engine(command, {}):
        pass


def test_processor_time_counts_what_a_process_waited_for() -> None:
    before = processor_seconds(os.getpid())
    work = "sum(k * k for k in range(2_000_000))"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert processor_seconds(os.getpid()) > before


def test_an_environment_is_made_again_when_its_lock_changes(tmp_path: Path) -> None:
    lock, folder = tmp_path / "lock.txt", tmp_path / "env"
    lock.write_text("a==1\n", encoding="ascii")
    folder.mkdir()
    assert not environments.is_current(folder, lock)
    (folder / "lock.sha256").write_text(environments._digest(lock), encoding="ascii")
    assert environments.is_current(folder, lock)
    lock.write_text("a==2\n", encoding="ascii")
    assert not environments.is_current(folder, lock)


@pytest.mark.parametrize("name", environments.PEERS)
def test_locks_pin_every_distribution_by_hash_and_name_no_host(name: str) -> None:
    text = environments.lock_of(name).read_text(encoding="ascii")
    assert "://" not in text
    pinned = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert len(pinned) > 25
    for line in pinned:
        assert "==" in line, line
        assert line.endswith("\\"), line
