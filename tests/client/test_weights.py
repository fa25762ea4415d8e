"""Released weights: arrays in the model's order, nothing executable, nothing boundless."""

from __future__ import annotations

import io

import numpy as np
import pytest

from privacy_gateway import weights
from privacy_gateway.errors import Refused


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_arrays_come_in_the_order_of_the_file() -> None:
    given = {f"{name}": np.full((2,), at) for at, name in enumerate(("z", "a", "10", "9"))}
    loaded = weights.load(npz(**given))
    assert list(loaded) == list(given)
    assert loaded["9"].tolist() == [3, 3]


def test_objects_are_never_unpickled() -> None:
    with pytest.raises(Refused) as caught:
        weights.load(npz(a=np.array([print], dtype=object)))
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        weights.load(data)


def test_sizes_are_capped_before_and_after_unpacking() -> None:
    with pytest.raises(Refused) as caught:
        weights.load(npz(a=np.zeros(1000)), limit=1000)
    assert caught.value.code == "too_large"
    with pytest.raises(Refused) as caught:
        weights.collect([b"x" * 600, b"x" * 600], limit=1000)
    assert caught.value.code == "too_large"


def test_a_model_is_filled_in_order() -> None:
    class Model:
        def set_weights(self, arrays: list[object]) -> None:
            self.arrays = arrays

    model = weights.fill(Model(), weights.load(npz(b=np.ones(1), a=np.zeros(1))))
    assert [float(array[0]) for array in model.arrays] == [1.0, 0.0]
