"""Many requests, one commit: a thread that serves whatever is waiting in one transaction.

A durable commit costs the same for one row and for a hundred, and a lock that everybody wants is
handed over once a group instead of once a request. Requests are served in the order of their
coming; each is answered only after the commit that holds its rows, and a request that fails leaves
nothing and touches no other. Whoever comes while a group commits is in the next one. A lone request
never waits for company; where the group before was of many, its callers are about to ask again, and
the next one gives them `COMPANY_SECONDS`. This module must never answer before the commit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from kit import log
from kit.db import Database
from privacy_gateway.errors import Refused

Request = TypeVar("Request")
Answer = TypeVar("Answer")

Work = Callable[[Session, Sequence[Request]], Sequence[Answer | Exception]]

LARGEST_GROUP = 64
MOST_WAITING = 1000
COMPANY_SECONDS = 0.002
_DATABASE_DOWN = (OperationalError, InterfaceError)

_log = log.get("kit")


class _Waiting(Generic[Request, Answer]):
    """One request and where its answer will be."""

    __slots__ = ("_ready", "answer", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: Answer | Exception | None = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def give(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self._ready.release()

    def take(self) -> Answer:
        with self._ready:
            answer = self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]


class GroupCommit(Generic[Request, Answer]):
    """One writer thread over `Database.unit_of_work`; started when first needed.

    Args:
        database: where the groups are committed.
        work: serves requests inside one transaction, in their order, and answers a prefix of them
            (at least one), an exception standing for a request that failed alone; what it leaves
            over is the head of the next group. It must not commit.
        largest: most requests of one group.
        most_waiting: beyond so many in the queue a request is refused at once.
    """

    def __init__(
        self,
        database: Database,
        work: Work[Request, Answer],
        *,
        largest: int = LARGEST_GROUP,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._database, self._work = database, work
        self._largest, self._most_waiting = largest, most_waiting
        self._changed = threading.Condition()
        self._queue: deque[_Waiting[Request, Answer]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._awaited = 1

    def submit(self, request: Request) -> Answer:
        """Wait until the request's group is durable, and answer what `work` said of it.

        Raises:
            Refused: `unavailable` when too many wait, the writer is closed, or the database did
                not confirm the commit.
            Exception: whatever `work` gave for this request, or raised for it alone.
        """
        waiting = _Waiting[Request, Answer](request)
        with self._changed:
            if self._closed:
                raise Refused("unavailable", "the gateway is shutting down", reason="closed")
            if len(self._queue) >= self._most_waiting:
                raise Refused(
                    "unavailable",
                    f"{len(self._queue)} admissions are waiting; try again later",
                    reason="queue_full",
                )
            if self._thread is None:
                # Daemonic: an interpreter that ends without `close` must not hang; nobody whose
                # group did not commit has been told anything. One that cannot be started now, for
                # want of room, is tried again by the next request.
                thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
                thread.start()
                self._thread = thread
            self._queue.append(waiting)
            if len(self._queue) >= self._awaited:
                self._changed.notify()
        return waiting.take()

    def close(self) -> None:
        """Take no more, serve what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def waiting(self) -> int:
        """Requests in the queue; a gauge."""
        with self._changed:
            return len(self._queue)

    def _run(self) -> None:
        while group := self._next():
            answers = self._served(group)
            for waiting, answer in zip(group, answers, strict=False):
                waiting.give(answer)
            if len(answers) < len(group):
                with self._changed:
                    self._queue.extendleft(reversed(group[len(answers) :]))

    def _next(self) -> list[_Waiting[Request, Answer]]:
        """The oldest requests, at most a group of them; none when closed and done."""
        with self._changed:
            company, self._awaited = self._awaited, 1
            while not self._queue and not self._closed:
                self._changed.wait()
            if len(self._queue) < company and not self._closed:
                self._awaited = company
                self._changed.wait_for(
                    lambda: len(self._queue) >= company or self._closed, COMPANY_SECONDS
                )
            size = self._awaited = min(len(self._queue), self._largest)
            return [self._queue.popleft() for _ in range(size)]

    def _served(self, group: Sequence[_Waiting[Request, Answer]]) -> Sequence[Answer | Exception]:
        """The answers of a committed group; a group that cannot commit is served one by one."""
        try:
            return self._committed([waiting.request for waiting in group])
        except Exception as error:
            if len(group) == 1:
                return [_told(error)]
            _log.warning("group_failed", requests=len(group), kind=type(error).__name__)
        return self._one_by_one(group)

    def _one_by_one(
        self, group: Sequence[_Waiting[Request, Answer]]
    ) -> Sequence[Answer | Exception]:
        """Each in a transaction of its own, so that one that breaks its commit breaks no other.

        A database that does not answer is asked once more only, not once for every request.
        """
        answers: list[Answer | Exception] = []
        for waiting in group:
            try:
                answers += self._committed([waiting.request])
            except _DATABASE_DOWN as error:
                return [*answers, *(_told(error) for _ in group[len(answers) :])]
            except Exception as error:  # the caller's own, raised where it waits
                answers.append(error)
        return answers

    def _committed(self, requests: Sequence[Request]) -> Sequence[Answer | Exception]:
        with self._database.unit_of_work() as session:
            answers = self._work(session, requests)
            if not 1 <= len(answers) <= len(requests):
                raise AssertionError(f"{len(answers)} answers to {len(requests)} requests")
        return answers


def _told(error: Exception) -> Exception:
    """What a caller is told of a group that did not commit; each gets an exception of its own."""
    if not isinstance(error, _DATABASE_DOWN):
        return error
    refusal = Refused(
        "unavailable",
        "the database did not confirm; ask again with the same Idempotency-Key",
        reason="not_committed",
    )
    refusal.__cause__ = error
    return refusal
