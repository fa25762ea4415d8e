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
from tests.support import bombs
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
    "activations that are infinite": (
        _model(*[_dense(16, "relu", kernel_initializer="he_normal") for _ in range(24)], _dense(3)),
        {"local_epochs": 2, "client_optimizer": {"name": "sgd", "learning_rate": 1e6}},
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
@pytest.mark.slow
def test_an_embedding_out_of_range_spoils_her_own_update_alone(bench: Bench) -> None:
    """Numbers below 0 and beyond the vocabulary, in the records of everybody and of one."""
    model = _model(
        {"type": "Embedding", "input_dim": 10, "output_dim": 4},
        {"type": "Flatten"},
        _dense(3),
        dtype="int32",
    )
    texts = bench.forgetting(dtype="int32", home=bench.home / "texts", _templates={}, _stores={})
    texts.home.mkdir()
    world = people()
    shape = world.rows["features"].shape
    numbers = np.random.default_rng(3).integers(0, 10, shape).astype(np.int32)
    world = type(world)("texts", world.rows | {"features": numbers}, world.sizes)
    first = texts.run(world, Keys(), **_body(model), rounds=2)
    assert first.completed
    someone = int(first.cohorts[0][0])
    wild = np.array([-(2**31), 2**31 - 1, -1, 10], np.int32)
    strange = world.changed(someone, "beyond", lambda x: np.resize(wild, x.shape))
    everybody = type(world)(
        "all beyond", world.rows | {"features": np.resize(wild, shape)}, world.sizes
    )
    here, gone, all_beyond = (
        texts.run(each, Keys(), **_body(model), rounds=1)
        for each in (strange, world.without(someone), everybody)
    )
    assert all(run.completed and run.job.attempt == 0 for run in (here, gone, all_beyond))
    far = np.linalg.norm(here.updates[0] - gone.updates[0]) * PER_ROUND
    assert (
        0 < far <= CLIP * (1 + 2.0**-18) + PER_ROUND * 2.0**-22 * np.linalg.norm(here.weights[-1])
    )


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


BOMBS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from privacy_gateway import modelspec, schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
told = {}
for name, body in json.loads(sys.argv[2]).items():
    try:
        modelspec.measure(schemas.parse(JobRequest, body).model.architecture)
        told[name] = "taken"
    except Refused as refused:
        told[name] = refused.errors[0].field
told["frameworks"] = sorted({"tensorflow", "keras"} & sys.modules.keys())
print(json.dumps(told))
"""


def test_size_bombs_are_refused_by_their_place_and_without_tensorflow() -> None:
    """How quickly is a benchmark's question (`bombs`)."""
    bodies = {
        name: markets.body("ds_1", **_body(bombs.architecture(layers)))
        for name, layers in bombs.BOMBS.items()
    }
    told = json.loads(
        subprocess.run(
            [sys.executable, "-c", BOMBS, json.dumps(sys.path), json.dumps(bodies)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert told.pop("frameworks") == []
    assert told.keys() == bodies.keys()
    assert all("layers" in field for field in told.values()), told
