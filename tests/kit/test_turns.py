"""Callers of one name take turns; nobody waits for ever, and names do not wait for each other."""

from __future__ import annotations

import threading

import pytest

from kit.db import Turns


def _waiting(turns: Turns, name: str) -> int:
    return len(turns._queues.get(name, ()))


def test_turns_are_given_in_the_order_of_coming() -> None:
    turns, served, entered = Turns(60.0), list[int](), threading.Event()

    def take(number: int) -> None:
        with turns.of("hot"):
            served.append(number)

    with turns.of("hot"):
        threads = []
        for number in range(8):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while _waiting(turns, "hot") < number + 2:
                entered.wait(0.001)
        with turns.of("cold"):  # another name is not waited for
            assert served == []
    for thread in threads:
        thread.join()
    assert served == list(range(8))
    assert not turns._queues


def test_who_has_waited_long_enough_goes_on() -> None:
    turns, gone = Turns(0.01), threading.Event()

    def take() -> None:
        with turns.of("hot"):
            gone.set()

    with turns.of("hot"):
        thread = threading.Thread(target=take)
        thread.start()
        assert gone.wait(30)
    thread.join()
    with turns.of("hot"):
        assert _waiting(turns, "hot") == 1


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns(60.0)
    with pytest.raises(ZeroDivisionError), turns.of("hot"):
        raise ZeroDivisionError
    with turns.of("hot"):
        assert _waiting(turns, "hot") == 1
