"""Specifications back into Keras, with released weights in their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_gateway import modelspec
from privacy_gateway.errors import Refused
from privacy_gateway.jobs import Job

keras = pytest.importorskip("keras")


@pytest.mark.tensorflow
def test_a_saved_model_holds_the_weights_in_the_order_of_the_specification(tmp_path: Path) -> None:
    import numpy as np

    from privacy_gateway.keras_converter import keras_of_spec, spec_of_keras

    # Keras lists the weights of this graph in another order than the specification's layers.
    spec = modelspec.parse(
        {
            "input": {"shape": [3]},
            "layers": [
                {"type": "Dense", "units": 2, "inputs": [-1]},
                {"type": "Dense", "units": 4},
                {"type": "Dense", "units": 4, "inputs": [-1]},
                {"type": "Add", "inputs": [1, 2]},
            ],
        }
    )
    shapes = modelspec.measure(spec).weight_shapes
    arrays = [np.full(shape, place + 1, np.float32) for place, shape in enumerate(shapes)]
    keras_of_spec(spec, arrays).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")

    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    deep = (x @ arrays[0] + arrays[1]) @ arrays[2] + arrays[3]
    np.testing.assert_allclose(model(x), deep + x @ arrays[4] + arrays[5], rtol=1e-6)
    assert modelspec.measure(spec_of_keras(model)).parameters == modelspec.measure(spec).parameters
    with pytest.raises(ValueError, match="shapes of the architecture"):
        keras_of_spec(spec, arrays[:-1])


def test_another_ending_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    asks_nobody = Job(None, None)  # type: ignore[arg-type]
    with pytest.raises(Refused) as caught:
        asks_nobody.download(tmp_path / "model.npz", form="keras")
    assert [error.field for error in caught.value.errors] == ["target"]
