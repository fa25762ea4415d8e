"""Frames carry numbers exactly, and a reader cannot be made to hang, overflow or build objects."""

import json
import os
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from worker.frames import MAGIC, Channel, DeadlinePassed, FrameBroken, PeerGone


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for descriptor in (read_fd, write_fd):
        try:
            os.close(descriptor)
        except OSError:
            continue


def _frame(header: object, data: bytes = b"", *, magic: bytes = MAGIC, size: int = -1) -> bytes:
    head = json.dumps(header).encode()
    return struct.pack("<4sIQ", magic, len(head), len(data) if size < 0 else size) + head + data


def test_arrays_arrive_as_they_were_sent(pipe: tuple[int, int]) -> None:
    channel = Channel(*pipe, max_bytes=1 << 24)
    arrays = [
        np.arange(600_000, dtype=np.int64).reshape(3, -1),
        np.array([], np.float32),
        np.array([[1.5, np.inf]], np.float32).T,
    ]
    sender = threading.Thread(target=channel.send, args=({"command": "x"}, arrays))
    sender.start()
    header, received = channel.receive(deadline=time.monotonic() + 30)
    sender.join()
    assert header == {"command": "x"}
    for sent, got in zip(arrays, received, strict=True):
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize(
    "frame",
    [
        _frame({"arrays": []}, magic=b"PGF0"),
        _frame({"arrays": []}, size=1 << 40),
        _frame({"arrays": [{"dtype": "object", "shape": [1]}]}, bytes(8)),
        _frame({"arrays": [{"dtype": "float32", "shape": [-2]}]}, bytes(8)),
        _frame({"arrays": [{"dtype": "float32", "shape": [True]}]}, bytes(4)),
        _frame({"arrays": [{"dtype": "float32", "shape": [3]}]}, bytes(8)),
        _frame({"arrays": [{"dtype": "float32", "shape": [0]}] * 1100}),
        _frame({"arrays": [{"dtype": "float32"}]}),
        _frame({"arrays": 3}),
        _frame({}),
        _frame([]),
        struct.pack("<4sIQ", MAGIC, 1 << 31, 0),
        struct.pack("<4sIQ", MAGIC, 3, 0) + b"\xff{}",
        struct.pack("<4sIQ", MAGIC, 40_000, 0) + b"[" * 40_000,
    ],
    ids=lambda frame: f"{len(frame)}-bytes",
)
def test_a_frame_of_another_form_is_refused(pipe: tuple[int, int], frame: bytes) -> None:
    os.write(pipe[1], frame)
    with pytest.raises(FrameBroken):
        Channel(*pipe, max_bytes=1 << 20).receive(deadline=time.monotonic() + 5)


def test_the_end_of_the_stream_is_told_apart(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], _frame({"arrays": []})[:7])
    os.close(pipe[1])
    with pytest.raises(PeerGone):
        Channel(*pipe, max_bytes=1).receive()


def test_a_silent_peer_and_a_peer_that_does_not_read_meet_the_deadline(
    pipe: tuple[int, int],
) -> None:
    os.set_blocking(pipe[1], False)
    channel = Channel(*pipe, max_bytes=1)
    with pytest.raises(DeadlinePassed):
        channel.receive(deadline=time.monotonic() + 0.05)
    with pytest.raises(DeadlinePassed):
        channel.send({}, [np.zeros(1 << 18, np.int64)], deadline=time.monotonic() + 0.05)
