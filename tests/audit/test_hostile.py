"""Models and records made to break training: the job runs its whole length and shows nothing.

Each is a whole job on the real worker. A hostile model may be useless; it may not stop a job,
shorten it, or make what is released depend on one person by more than C.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from privacy_gateway import modelspec, schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
from tests.audit.bench import FEATURES, PEOPLE, PER_ROUND, Bench, Keys, people
from tests.support import market as markets
from worker.zygote import Zygote

CLIP = 0.5


def _model(*layers: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    return {"input": {"shape": [FEATURES], "dtype": dtype}, "layers": list(layers)}


def _dense(units: int, activation: str = "linear", **more: Any) -> dict[str, Any]:
    return {"type": "Dense", "units": units, "activation": activation, **more}


LINEAR = _model(_dense(3))
# The largest learning rate the door lets through, with many steps of it: numbers beyond float32.
NAN_MAKER = {
    "client_optimizer": {"name": "sgd", "learning_rate": 1e6},
    "local_epochs": 20,
    "batch_size": 1,
}
HOSTILE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a learning rate that overflows": (_model(_dense(64, "relu"), _dense(3)), NAN_MAKER),
    "activations that overflow": (
        _model(*[_dense(32, "relu") for _ in range(8)], _dense(3)),
        {"local_epochs": 3, "client_optimizer": {"name": "adam", "learning_rate": 1e4}},
    ),
    "a long recurrence": (
        _model(
            {"type": "Reshape", "target_shape": [FEATURES, 1]},
            {"type": "LSTM", "units": 8, "return_sequences": True},
            {"type": "SimpleRNN", "units": 8},
            _dense(3),
        ),
        {"batch_size": 4, "client_optimizer": NAN_MAKER["client_optimizer"]},
    ),
    "a variance of nothing": (
        _model(
            _dense(8, use_bias=False, kernel_initializer="zeros"),
            {"type": "LayerNormalization"},
            _dense(3),
        ),
        {"local_epochs": 5},
    ),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    zygote = Zygote()
    with markets.engine(processes=1) as engine:
        yield Bench(engine, tmp_path_factory.mktemp("hostile"), zygote)
    zygote.close()


def _body(model: dict[str, Any], **algorithm: Any) -> dict[str, Any]:
    return {
        "model": {"architecture": model},
        "algorithm": {"name": "dp_fedavg", "clip_norm": CLIP} | algorithm,
    }


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_runs_to_its_end_and_shows_nobody(bench: Bench, name: str) -> None:
    model, algorithm = HOSTILE[name]
    world = people()
    first = bench.run(world, Keys(), **_body(model, **algorithm), rounds=2)
    assert first.completed
    assert first.job.attempt == 0
    assert np.isfinite(first.weights[-1]).all()

    someone = int(first.cohorts[0][0])
    strange = world.changed(someone, "1e30", lambda x: np.full_like(x, 1e30))
    runs = [
        bench.run(each, Keys(), **_body(model, **algorithm), rounds=1)
        for each in (strange, world.without(someone))
    ]
    assert all(run.completed for run in runs)
    far = np.linalg.norm(runs[0].updates[0] - runs[1].updates[0]) * PER_ROUND
    rounding = PER_ROUND * 2.0**-22 * np.linalg.norm(runs[0].weights[-1])
    assert far <= CLIP * (1 + 2.0**-18) + rounding


@pytest.mark.tensorflow
def test_records_that_break_every_client_do_not_break_the_job(bench: Bench) -> None:
    """NaN, ∞, denormal and largest numbers, and labels no class has."""
    world = people()
    poison = np.array([np.nan, np.inf, -np.inf, 3.4e38, 1e-45], np.float32)
    features = np.resize(poison, world.rows["features"].shape)
    label = np.resize(np.array([-(2**31), 2**31 - 1, 7], np.int32), PEOPLE * 3)
    broken = type(world)("broken", {"features": features, "label": label}, world.sizes)
    run = bench.run(broken, Keys(), **_body(LINEAR), rounds=3)
    assert run.completed
    assert run.job.attempt == 0
    # Every client contributes zero: three rounds of noise alone.
    deviations = [float(update.std()) for update in run.updates]
    expected = 1.1 * CLIP / PER_ROUND
    assert all(0.5 * expected < each < 1.6 * expected for each in deviations), deviations


REFUSED: dict[str, dict[str, Any]] = {
    "Lambda": {"type": "Lambda", "function": "lambda x: x"},
    "BatchNormalization": {"type": "BatchNormalization"},
    "Normalization": {"type": "Normalization"},
    "TextVectorization": {"type": "TextVectorization", "vocabulary": "/etc/passwd"},
    "TFSMLayer": {"type": "TFSMLayer", "filepath": "https://example.org/model"},
    "a custom object": {"type": "custom>Thief"},
    "a module": {"type": "os.system"},
    "a wide layer": _dense(1 << 28),
    "a huge vocabulary": {"type": "Embedding", "input_dim": 1 << 30, "output_dim": 1 << 10},
    "a negative width": _dense(-1),
    "a NaN rate": {"type": "Dropout", "rate": float("nan")},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_allowed_layer_is_refused_by_its_place(name: str) -> None:
    with pytest.raises(Refused) as caught:
        body = markets.body("ds_1", **_body(_model(REFUSED[name], _dense(3))))
        modelspec.measure(schemas.parse(JobRequest, body).model.architecture)
    assert any("layers[0]" in each.field for each in caught.value.errors), caught.value.errors


BOMBS = f"""
import json, sys, time
sys.path[:0] = json.loads(sys.argv[1])
from privacy_gateway import modelspec, schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
dense = lambda units: {{"type": "Dense", "units": units}}
bombs = {{
    "wide": [dense(1 << 28), dense(3)],
    "deep": [dense(8)] * 1000,
    "long": [{{"type": "Reshape", "target_shape": [{FEATURES}, 1]}},
             {{"type": "Conv1D", "filters": 1 << 20, "kernel_size": 3, "padding": "same"}},
             {{"type": "Flatten"}}, dense(1 << 16)],
    "many": [{{"type": "Embedding", "input_dim": 1 << 30, "output_dim": 1 << 12}}],
    "doubling": [dense(1 << 12)] + [{{"type": "Concatenate", "inputs": [k, k]}} for k in range(60)],
}}
def refused(layers):
    body = json.loads(sys.argv[2])
    body["model"]["architecture"] = {{"input": {{"shape": [{FEATURES}]}}, "layers": layers}}
    try:
        modelspec.measure(schemas.parse(JobRequest, body).model.architecture)
    except Refused:
        return True
    return False
refused([dense(1 << 28)])  # imports and schemas are built once
told = {{}}
for name, layers in bombs.items():
    before = time.process_time()
    told[name] = [refused(layers), time.process_time() - before]
told["tensorflow"] = "tensorflow" in sys.modules or "keras" in sys.modules
print(json.dumps(told))
"""


def test_size_bombs_are_refused_at_once_and_without_tensorflow() -> None:
    """Processor seconds, so that a busy machine does not decide; 50 ms is the promise."""
    body = markets.body("ds_1", **_body(LINEAR))
    told = json.loads(
        subprocess.run(
            [sys.executable, "-c", BOMBS, json.dumps(sys.path), json.dumps(body)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert told.pop("tensorflow") is False
    assert {name: each[0] for name, each in told.items()} == dict.fromkeys(told, True)
    assert max(seconds for _, seconds in told.values()) < 0.05, told
