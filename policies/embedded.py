"""The embedded Rego engine (regorus), only ever run in child processes that may be killed.

The library has no deadline, can overflow its stack on a recursive function, is not thread-safe and
prints undefined values as a text; so it gets a process with limits, bytes over pipes, and its
answers are read by the same strict decoder as everybody's. This module must never import it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib import metadata
from typing import Any

from policies import lint
from policies.child import OK, UNKNOWN_WORLD
from policies.engine import (
    DEADLINE_SECONDS,
    Evaluation,
    Findings,
    Health,
    Revision,
    TestReport,
    TestResult,
)
from policies.errors import EngineFailed, Fault
from policies.library import library
from policies.pool import Child, Pool
from policies.publication import (
    Publication,
    opened,
    publication,
    publication_of_tests,
    rule_name,
)
from policies.strict import StrictReader
from policies.text import TextRefused
from privacy_gateway import canonical
from privacy_gateway.errors import Refused

MEMORY_BYTES = 256 * 1024 * 1024
CHECK_SECONDS = 5.0
# A text whose every test hangs must not hold a child, that others ask too, for long.
TESTS_SECONDS = 60.0
LARGEST_ANSWER = 256 * 1024
SHORT_ANSWER = 4096
_PARSE = b'{"op": "parse"}'


@cache
def _version() -> str:
    """Read once: the distribution's metadata is a file, and every decision names its engine."""
    return f"regorus {metadata.version('gordon-to-regorus')}"


class EmbeddedEngine:
    """Rego on one machine without a server.

    Args:
        processes: how many decisions run at the same time.
        memory_bytes: address space of each child process beyond its start.
        test_seconds: deadline of one `test_*` rule; a decision's own would refuse an activation on
            a busy machine.
        strict: who else reads what the language profile lets pass.

    Thread-safe. Children are started when first needed and replaced when they die.
    """

    name = "embedded"

    def __init__(
        self,
        processes: int = 2,
        *,
        memory_bytes: int = MEMORY_BYTES,
        test_seconds: float = CHECK_SECONDS,
        strict: StrictReader | None = None,
    ) -> None:
        self._strict = strict
        self._pool = Pool(processes, memory_bytes)
        self._test_seconds = test_seconds

    @property
    def version(self) -> str:
        """Distribution and version of the engine."""
        return _version()

    def check(self, source: str, tests: str = "") -> Findings:
        """Parse both texts, enforce the language profile (`policies.lint`), have it read again.

        Raises:
            EngineFailed: no child process, or no strict reader, could do it.
        """
        deadline = time.monotonic() + CHECK_SECONDS
        with self._pool.borrow(deadline) as child:
            found = lint.check(
                source, tests, lambda modules: _parse(child, modules, deadline), library()
            )
        if self._strict is None or not found.clean:
            return found
        return Findings(found.items + self._strict.check(source, tests).items)

    def test(self, source: str, tests: str) -> TestReport:
        """Run every `test_*` rule; a rule that is late, fails or crashes does not pass.

        Raises:
            EngineFailed: no child process could be had.
        """
        try:
            return self.run(publication_of_tests(source, tests))
        except TextRefused as refused:
            return TestReport((TestResult("package", False, refused.message),))

    def run(self, world: Publication) -> TestReport:
        """Ask all queries of a publication as tests; together they have `TESTS_SECONDS`."""
        ends = time.monotonic() + TESTS_SECONDS
        return TestReport(tuple(self._run_test(world, query, ends) for query in world.queries))

    def evaluate(
        self, revision: Revision, canonical_input: bytes, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Evaluation:
        """Ask the decision of a revision; any trouble comes back as a fault."""
        try:
            world = publication(revision.source, shared=revision.library)
            header = _asking("evaluate", world.name, world.queries[0])
            answer = self._exchange(world, header, canonical_input, deadline_seconds)
            return _read(answer, world.digest)
        except TextRefused as refused:
            return Evaluation(fault=Fault.EVALUATION_FAILED, detail=refused.message)
        except EngineFailed as failure:
            return Evaluation(fault=failure.fault, detail=failure.detail)

    def evaluate_many(
        self, revision: Revision, documents: Sequence[bytes], deadline_seconds: float
    ) -> list[Evaluation]:
        """Ask about many inputs in one exchange, with one deadline for all."""
        try:
            world = publication(revision.source, shared=revision.library)
            payload = json.dumps([document.decode() for document in documents]).encode()
            header = _asking("many", world.name, world.queries[0])
            answers = json.loads(self._exchange(world, header, payload, deadline_seconds))
        except TextRefused as refused:
            fault = Evaluation(fault=Fault.EVALUATION_FAILED, detail=refused.message)
            return [fault] * len(documents)
        except EngineFailed as failure:
            return [Evaluation(fault=failure.fault, detail=failure.detail)] * len(documents)
        return [_evaluation(answer, world.digest) for answer in answers]

    def coverage(self, source: str, tests: str) -> list[dict[str, Any]]:
        """Lines that the `test_*` rules reach, by module: path, `covered`, `not_covered`.

        Raises:
            EngineFailed: no child process could do it in time.
            TextRefused: a text cannot be moved into its own package.
        """
        world = publication_of_tests(source, tests)
        queries = [f"data.{query}" for query in world.queries]
        header = json.dumps({"op": "coverage", "queries": queries}).encode()
        deadline = time.monotonic() + CHECK_SECONDS
        with self._pool.borrow(deadline) as child:
            report = _call(child, header, json.dumps(world.all_modules).encode(), deadline)
        files: list[dict[str, Any]] = json.loads(report)["files"]
        ours = {name for name, _ in world.modules}
        return [file for file in files if file["path"] in ours]

    @contextmanager
    def trial(self) -> Iterator[EmbeddedEngine]:
        """Itself: children hold nothing that decides."""
        yield self

    def ready(self, _revision: Revision, _deadline_seconds: float) -> None:
        """At once: texts come with the question."""

    def health(self) -> Health:
        """Ask a child process to parse a line."""
        try:
            deadline = time.monotonic() + CHECK_SECONDS
            with self._pool.borrow(deadline) as child:
                _call(child, _PARSE, b'[["health.rego", "package health"]]', deadline)
        except EngineFailed as failure:
            return Health(False, self.name, self.version, failure.detail)
        return Health(True, self.name, self.version)

    def close(self) -> None:
        """End the child processes."""
        self._pool.close()

    def pids(self) -> list[int]:
        """Process ids of the idle children."""
        return self._pool.pids()

    def _run_test(self, world: Publication, query: str, ends: float) -> TestResult:
        left = ends - time.monotonic()
        if left <= 0:
            return TestResult(rule_name(query), False, "those before it took all the time")
        try:
            value = self._ask(world, query, b"{}", min(self._test_seconds, left))
        except EngineFailed as failure:
            return TestResult(rule_name(query), False, failure.detail)
        detail = "" if value is True else "the rule is not true"
        return TestResult(rule_name(query), value is True, detail)

    def _ask(self, world: Publication, query: str, document: bytes, seconds: float) -> Any:
        """The value of `data.<query>`; None where it is undefined."""
        header = _asking("evaluate", world.name, query)
        return _value(self._exchange(world, header, document, seconds))

    def _exchange(self, world: Publication, header: bytes, payload: bytes, seconds: float) -> bytes:
        """One request to a child that has the world, which it is given first if it lacks it."""
        started = time.monotonic()
        with self._pool.borrow(started + seconds) as child:
            # A child that was just started has not used up the policy's time.
            deadline = time.monotonic() + seconds
            reply, answer = child.exchange(header, payload, deadline)
            if reply == UNKNOWN_WORLD:
                modules = json.dumps(world.all_modules).encode()
                _call(child, _loading(world.name), modules, deadline)
                reply, answer = child.exchange(header, payload, deadline)
        return _good(reply, answer)


@lru_cache(maxsize=1024)
def _asking(operation: str, world: str, query: str) -> bytes:
    """The header of a question; written once, and read once by each child."""
    return json.dumps({"op": operation, "world": world, "query": f"data.{query}"}).encode()


def _loading(world: str) -> bytes:
    return json.dumps({"op": "load", "world": world}).encode()


def _evaluation(answer: dict[str, Any], digest: str) -> Evaluation:
    """One of many answers."""
    if not answer["ok"]:
        return Evaluation(fault=Fault.EVALUATION_FAILED, detail=str(answer["detail"]))
    try:
        return _read(answer["answer"].encode(), digest)
    except EngineFailed as failure:
        return Evaluation(fault=failure.fault, detail=failure.detail)


def _read(answer: bytes, digest: str) -> Evaluation:
    """What an engine's text says; a policy mostly repeats itself, so short ones are read once."""
    return _read_short(answer, digest) if len(answer) <= SHORT_ANSWER else _read_any(answer, digest)


def _read_any(answer: bytes, digest: str) -> Evaluation:
    return opened(_value(answer), digest)


_read_short = lru_cache(maxsize=1024)(_read_any)


def _value(answer: bytes) -> Any:
    """The one expression of a query's result."""
    try:
        # The engine leaves `result` out when the query has none.
        results = canonical.loads_strict(answer, max_bytes=LARGEST_ANSWER).get("result")
    except (Refused, AttributeError) as error:
        raise EngineFailed(Fault.MALFORMED, f"the answer cannot be read: {error}") from error
    return results[0]["expressions"][0]["value"] if results else None


def _call(child: Child, header: bytes, payload: bytes, deadline: float) -> bytes:
    """Exchange, where an engine error is the caller's failure."""
    return _good(*child.exchange(header, payload, deadline))


def _good(reply: bytes, answer: bytes) -> bytes:
    """The answer, where the child's header says that it is one."""
    if reply != OK:
        raise EngineFailed(Fault.EVALUATION_FAILED, str(json.loads(reply)["detail"]))
    return answer


def _parse(child: Child, modules: list[tuple[str, str]], deadline: float) -> list[Any]:
    """Syntax trees of the modules; a syntax error raises `lint.SyntaxRefused`."""
    reply, answer = child.exchange(_PARSE, json.dumps(modules).encode(), deadline)
    if reply != OK:
        raise lint.SyntaxRefused(str(json.loads(reply)["detail"]))
    trees: list[Any] = json.loads(answer)
    return [tree["ast"] for tree in trees]
