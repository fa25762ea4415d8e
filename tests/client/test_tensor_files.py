"""Files of weights from strangers: numbers in, everything else refused before it costs anything."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from privacy_gateway import tensor_files
from privacy_gateway.errors import Refused

LIMIT = 1 << 13


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def safetensors(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def twice(told: dict[str, Any]) -> bytes:
    """Two tensors of one name, in the same place."""
    pair = f'"w_0":{json.dumps(told)}'
    text = f"{{{pair},{pair}}}".encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def entry(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refused(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        tensor_files.read(data, parameters=LIMIT)
    return caught.value


def test_both_formats_give_the_same_weights_in_order_of_their_numbers() -> None:
    given_arrays = {f"weight_{n:04d}": np.full((2, n + 1), n, np.float32) for n in range(12)}
    for data in (npz(**given_arrays), save(given_arrays)):
        read = tensor_files.read(data, parameters=LIMIT)
        assert list(read) == list(given_arrays)
        assert all(np.array_equal(read[name], given_arrays[name]) for name in read)


def test_a_header_as_long_as_the_mark_of_an_archive_is_no_archive() -> None:
    many = {f"weight_{n:04d}": np.full(3, n, np.float32) for n in range(282)}
    data = save(many)
    assert data.startswith(b"PK")
    read = tensor_files.read(data, parameters=LIMIT)
    assert all(np.array_equal(read[name], many[name]) for name in read)


def test_positional_archives_are_ordered_by_number_and_not_by_text() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, *[np.full(1, n, np.float64) for n in range(11)])
    read = tensor_files.read(buffer.getvalue(), parameters=LIMIT)
    assert [float(array[0]) for array in read.values()] == list(range(11))
    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}


def test_fortran_order_is_kept_as_meant() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    (read,) = tensor_files.read(npz(arr_0=array), parameters=LIMIT).values()
    assert np.array_equal(read, array)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "unsupported"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "unsupported"),
        (pickle.dumps([1.0]), "unsupported"),
        (b"PK\x03\x04 and nothing", "invalid_request"),
        (npz(arr_0=np.array([print], dtype=object)), "invalid_request"),
        (npz(arr_0=np.array(["text"])), "invalid_request"),
        (npz(arr_0=np.array([1, 2])), "invalid_request"),
        (npz(arr_0=np.array([1.0, np.nan])), "invalid_request"),
        (npz(arr_0=np.array([1e300])), "invalid_request"),
        (npz(kernel=np.zeros(1)), "invalid_request"),
        (npz(arr_1=np.zeros(1)), "invalid_request"),
        (npz(arr_0=np.zeros(1), other_1=np.zeros(1)), "invalid_request"),
        (npz(arr_0=np.zeros(2 * LIMIT)), "too_large"),
        (safetensors({"w_0": entry(0, 8, [2])}, bytes(4)), "invalid_request"),
        (safetensors({"w_0": entry(0, 4, [1])}, bytes(8)), "invalid_request"),
        (safetensors({"w_0": entry(4, 8, [1])}, bytes(8)), "invalid_request"),
        (safetensors({"w_0": entry(0, 4, [-1])}, bytes(4)), "invalid_request"),
        (safetensors({"w_0": entry(0, 4, [1 << 70])}, bytes(4)), "invalid_request"),
        (safetensors({"w_0": entry(0, 4, [True])}, bytes(4)), "invalid_request"),
        (safetensors({"w_0": entry(0, 4, [1], "I32")}, bytes(4)), "invalid_request"),
        (safetensors({"w_0": {"dtype": "F32", "shape": [1]}}, bytes(4)), "invalid_request"),
        (safetensors({"w_0": 3}, bytes(4)), "invalid_request"),
        (safetensors({}, b""), "invalid_request"),
        (twice(entry(0, 4, [1])), "invalid_request"),
        (safetensors({"w_0": entry(0, 2, [1], "BF16")}, bytes(2)), "invalid_request"),
        (safetensors({"w_0": entry(0, 0, [0, 1 << 63])}, b""), "invalid_request"),
        (npz(arr_0=np.zeros((0, 3))), "invalid_request"),
        (save({"w_0": np.zeros(LIMIT + 1, np.float16)}), "too_large"),
        (npz(arr_0=np.zeros(LIMIT + 1, np.float16)), "too_large"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "unsupported"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_finite_numbers_is_refused(data: bytes, code: str) -> None:
    assert refused(data).code == code


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_unpacks_without_a_bound_is_refused_packed(kind: int) -> None:
    """A member that says it is small; the library would unpack a whole block of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr("arr_0.npy", bytes(1 << 22))
        archive.infolist()[0].file_size = 200
    assert (found := refused(buffer.getvalue())).code == "unsupported"
    assert "stored or deflated" in found.detail


def test_a_directory_that_points_out_of_its_file_is_refused() -> None:
    data = bytearray(npz(arr_0=np.ones(3)))
    place = data.rindex(b"PK\5\6") + 16
    data[place : place + 4] = (int.from_bytes(data[place : place + 4], "little") + 5000).to_bytes(
        4, "little"
    )
    assert refused(bytes(data)).code == "invalid_request"


@pytest.mark.parametrize("header", [b"((((", b"{'descr': '<f4'", b"\0" * 8, b"'" * 9])
def test_a_header_that_is_no_literal_is_refused(header: bytes) -> None:
    member = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("arr_0.npy", member)
    assert refused(buffer.getvalue()).code == "invalid_request"


def test_a_keras_archive_is_named_as_what_it_is() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF")
    assert "no NPZ" in refused(buffer.getvalue()).detail


def test_a_small_file_that_unpacks_to_much_is_refused_unpacked() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, np.zeros(1 << 22, np.float32))
    assert len(buffer.getvalue()) < 8 * LIMIT
    assert refused(buffer.getvalue()).code == "too_large"


def test_a_header_that_claims_more_than_there_is_allocates_nothing() -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("arr_0.npy", member.getvalue())
    assert "not as long" in refused(buffer.getvalue()).detail


@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x04"]))
def test_any_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    try:
        tensor_files.read(start + data, parameters=LIMIT)
    except Refused as refusal:
        assert refusal.code in {"unsupported", "invalid_request", "too_large"}


_GOOD = (npz(arr_0=np.ones((2, 2)), arr_1=np.ones(2)), save({"w_0": np.ones(3)}))


@given(st.sampled_from(_GOOD), st.integers(0, 400), st.integers(0, 255))
def test_one_changed_byte_gives_finite_floats_or_a_refusal(data: bytes, at: int, to: int) -> None:
    changed = bytearray(data)
    changed[at % len(data)] = to
    try:
        read = tensor_files.read(bytes(changed), parameters=LIMIT)
    except Refused:
        return
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in read.values())
