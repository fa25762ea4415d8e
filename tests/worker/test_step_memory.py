"""What one training step really holds, against the figure by which batches are cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from privacy_gateway import modelspec
from tests.worker import engine
from worker import start
from worker.launcher import Sandbox

STEPS, CHANNELS, UNITS = 40, 16, 256
# Far enough apart that whole huge pages hardly count.
FEW, MANY = 8, 264
RECURRENT = [
    {"type": "LSTM", "units": UNITS},
    {"type": "LSTM", "units": UNITS, "return_sequences": True},
    {"type": "GRU", "units": UNITS, "return_sequences": True},
    {"type": "SimpleRNN", "units": UNITS, "return_sequences": True},
]
# Each in a fork of its own, before any operation has run: the peak only ever rises. What it rises
# by from few rows to many is what the rows add.
CHILD = """
import json, os, resource, sys
import tensorflow as tf
from worker.task import TrainingTask
from worker.training import local, models, runtime
from worker.training.algorithms.registry import ClientRows

local._BATCH_BYTES = 1 << 40  # a batch is one part, however large


def measured(spec, few, many):
    task = TrainingTask.model_validate(
        {"model": spec, "algorithm": "dp_fedavg", "clip_norm": 1.0, "batch_size": 4096}
    )
    runtime.configure(task)
    model = models.build(task)
    update = local.minibatch_training(task, model, proximal_mu=0.0)

    @tf.function(autograph=False, reduce_retracing=True)
    def step(weights, features, labels):
        rows = ClientRows(features, labels, tf.constant(0), tf.size(labels), tf.constant(0))
        return [tf.reduce_sum(part) for part in update(weights, rows)]

    weights = [tf.constant(array) for array in models.first_weights(task)]
    peaks = []
    for size in (few // 2, few, few, many):
        step(weights, tf.zeros([size, *spec["input"]["shape"]]), tf.zeros([size], tf.int32))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print((peaks[-1] - peaks[-2]) / (many - few), flush=True)


for spec in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        measured(spec, int(sys.argv[2]), int(sys.argv[3]))
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_recurrent_step_holds_what_its_specification_says() -> None:
    """Else a large batch takes several times the memory it was cut to."""
    specs = [_spec(layer) for layer in RECURRENT]
    environment = start.environment() | {
        "PYTHONPATH": os.pathsep.join(map(str, start._IMPORTABLE)),
        # Every array is mapped by itself, and given back when it is not needed any more.
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    command = [sys.executable, "-c", CHILD, json.dumps(specs), str(FEW), str(MANY)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for layer, spec, taken in zip(RECURRENT, specs, told.stdout.split(), strict=True):
        said = modelspec.measure(modelspec.parse(spec)).activation_bytes
        assert 0.5 * said < float(taken) <= said, layer


def test_a_model_the_operator_let_in_is_not_refused_by_a_worker() -> None:
    """It would be charged first, and fail then."""
    units = 5000
    layer = {"type": "Dense", "units": units}
    task = engine.task({"input": {"shape": [units]}, "layers": [layer]})
    assert Sandbox(task, None).size.parameters > modelspec.Limits().parameters
    assert task.sum_shapes == [(units, units), (units,)]


def _spec(layer: dict[str, Any]) -> dict[str, Any]:
    pooled = [{"type": "GlobalAveragePooling1D"}] if layer.get("return_sequences") else []
    return {
        "input": {"shape": [STEPS, CHANNELS], "dtype": "float32"},
        "layers": [layer, *pooled, {"type": "Dense", "units": 3}],
    }
