"""Models as files: the numbers that were given, in two forms, and nothing that is not a number."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import SafetensorError

from kit import tensors

NUMBERS = st.sampled_from(["<f4", "<f8", "<i8", "<i4", "|u1", "|b1"])
ARRAYS = NUMBERS.flatmap(
    lambda kind: npst.arrays(np.dtype(kind), npst.array_shapes(min_dims=0, min_side=0, max_side=4))
)
NAMES = st.text(st.sampled_from("abcz_09.é漢"), min_size=1, max_size=40).filter(
    lambda name: name != "file"
)
GOLDEN = "9df833c373148446c59bec0a6288c226329d67c39f1a0561f0dea977b226ea7b"
FORMS: tuple[tensors.Form, ...] = ("npz", "safetensors")


@given(st.dictionaries(NAMES, ARRAYS, max_size=5), st.permutations(FORMS))
def test_what_is_written_is_read_in_order_of_names(
    arrays: dict[str, Any], forms: list[tensors.Form]
) -> None:
    data = tensors.dump(arrays)
    for form in forms:
        data = tensors.in_form(data, form)
        assert tensors.form_of(data) == form
        read = tensors.load(data)
        assert list(read) == sorted(arrays)
        for name, array in arrays.items():
            assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
            assert read[name].tobytes() == array.tobytes()


def test_a_header_as_long_as_the_mark_of_an_archive_is_no_archive() -> None:
    arrays = {f"weight_{place:04d}": np.full(3, place, np.float32) for place in range(282)}
    data = tensors.dump(arrays)
    assert data.startswith(b"PK")
    assert tensors.in_form(data, "safetensors") == data
    assert list(tensors.load(tensors.in_form(data, "npz"))) == list(arrays)


def test_the_bytes_are_those_that_are_stored_everywhere() -> None:
    """Where the library writes them in another way, uploads of the same numbers get new names."""
    arrays = {"weight_0000": np.arange(3, dtype=np.float32), "step": np.array(7, np.int64)}
    assert tensors.digest(tensors.dump(arrays)) == GOLDEN


def test_what_is_in_a_form_already_stays_as_it_is() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weight=np.zeros(100))
    assert tensors.in_form(buffer.getvalue(), "npz") == buffer.getvalue()


def test_the_order_in_memory_and_of_names_changes_nothing() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    columns = np.asfortranarray(array)
    every_second = np.repeat(array, 2, axis=2)[:, :, ::2]
    big_endian = array.astype(">f4")
    arrays = (array, columns, every_second, big_endian)
    files = {tensors.dump({"weight": each, "bias": array[0]}) for each in arrays}
    files.add(tensors.dump({"bias": array[0], "weight": array}))
    assert len(files) == 1


def test_the_bytes_depend_on_no_clock() -> None:
    data = tensors.in_form(tensors.dump({"weight": np.ones(3)}), "npz")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert {member.date_time[:3] for member in file.infolist()} == {(1980, 1, 1)}


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.array(["2026-11-22"], dtype="M8[D]"),
    ],
    ids=["objects", "text", "records", "dates"],
)
def test_numbers_alone_are_written(array: Any) -> None:
    with pytest.raises(SafetensorError):
        tensors.dump({"good": np.ones(2), "bad": array})


def test_a_pickle_is_never_read() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, bad=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        tensors.load(buffer.getvalue())
