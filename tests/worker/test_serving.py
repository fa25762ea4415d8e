"""The sandbox's side of the conversation: what it does unasked is never an answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from worker.frames import Channel
from worker.training import serving


class Unpreparable:
    """A session whose graph cannot be made."""

    def prepare(self) -> None:
        raise MemoryError

    def answer(self, header: dict[str, Any], arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        if header["command"] == "round":
            raise ValueError("the same again")
        return {"ok": True, "did": header["command"]}, arrays


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Ours and the sandbox's."""
    with ExitStack() as stack:
        pipes = [os.pipe(), os.pipe()]
        for end in (end for pipe in pipes for end in pipe):
            stack.callback(os.close, end)
        (their_read, our_write), (our_read, their_write) = pipes
        for end in (our_read, our_write):
            os.set_blocking(end, False)
        ours = Channel(our_read, our_write, max_bytes=1 << 10)
        yield ours, Channel(their_read, their_write, max_bytes=1 << 10)


def test_what_could_not_be_prepared_is_told_as_the_answer_of_the_round(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word more than one an answer, or a process that is gone, would be another failure."""
    ours, theirs = ends
    monkeypatch.setattr(serving, "_configure", lambda header: Unpreparable())
    sandbox = threading.Thread(target=serving._converse, args=(theirs,))
    sandbox.start()
    answers = []
    for command in ("configure", "initial_weights", "round"):
        by = time.monotonic() + 30
        ours.send({"command": command}, deadline=by)
        answers.append({k: v for k, v in ours.receive(deadline=by)[0].items() if k != "arrays"})
    sandbox.join()
    assert answers == [
        {"ok": True},
        {"ok": True, "did": "initial_weights"},
        {"ok": False, "code": "training_failed"},
    ]
