"""A real OPA server over REST, behind the same interface as the embedded engine.

In production the server takes what decides from signed bundles only (`policies.bundle`); this
engine then asks and never puts. Without bundles, for one machine and for tests, the server is
stateless to us: a revision it does not hold is put there and asked again. Either way every answer
names the revision it came from. Builtin errors are errors (`strict-builtin-errors`), not silence.
What this engine cannot get in time is a fault; it must never answer from memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from policies.engine import (
    DEADLINE_SECONDS,
    Evaluation,
    Finding,
    Findings,
    Health,
    Module,
    Revision,
    TestReport,
    TestResult,
)
from policies.errors import EngineFailed, Fault
from policies.publication import (
    BUNDLED,
    Publication,
    opened,
    publication,
    publication_of_tests,
    rule_name,
)
from policies.text import TextRefused
from privacy_gateway import canonical
from privacy_gateway.errors import Refused

OLDEST_VERSION = (1, 20, 3)
"""Earlier servers had a sprintf regression (1.20.0 to 1.20.2) or lack what the profile allows."""
BUNDLE_NAME = "gateway"
"""What the server's configuration calls our bundle."""
LARGEST_ANSWER = 1024 * 1024
PUBLISH_SECONDS = 5.0
READY_PAUSE_SECONDS = 0.1
_STRICT = {"strict-builtin-errors": "true", "provenance": "true"}
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class OpaEngine:
    """Rego on an OPA server.

    Args:
        url: where the server listens, such as `http://127.0.0.1:8181`.
        token: bearer token, if the server authenticates.
        bundled: ask only what came in a signed bundle, and put nothing that decides.
        transport: another httpx transport, for tests.

    Thread-safe; connections are kept. The version is that of the last answer.
    """

    name = "opa"

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        bundled: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._bundled = bundled
        self._bundle_revision = ""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=url,
            headers=headers,
            transport=transport,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=16, keepalive_expiry=60),
        )
        self._version = "unknown"

    @property
    def version(self) -> str:
        """Version the server last said it has, and the start of its bundle's revision."""
        bundle = f" bundle {self._bundle_revision[:16]}" if self._bundled else ""
        return f"opa {self._version}{bundle}"

    def check(self, source: str, tests: str = "") -> Findings:
        """Let the server compile both texts.

        Raises:
            EngineFailed: the server does not answer, or is too old.
        """
        self._require_version()
        try:
            world = publication_of_tests(source, tests)
        except TextRefused as refused:
            return Findings(
                (Finding("error", "package", refused.message, refused.line, refused.column),)
            )
        try:
            with self._loaded(world):
                return Findings()
        except CompileRefused as refused:
            return Findings(tuple(refused.findings))

    def test(self, source: str, tests: str) -> TestReport:
        """Run every `test_*` rule on the server.

        Raises:
            EngineFailed: the server does not answer.
        """
        try:
            return self.run(publication_of_tests(source, tests))
        except TextRefused as refused:
            return TestReport((TestResult("package", False, refused.message),))

    def run(self, world: Publication) -> TestReport:
        """Load a publication, ask all its queries as tests, and take it away again."""
        try:
            with self._loaded(world):
                return TestReport(tuple(self._run_test(query) for query in world.queries))
        except CompileRefused as refused:
            return TestReport((TestResult("compile", False, str(refused.findings[0])),))

    def evaluate(
        self, revision: Revision, canonical_input: bytes, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Evaluation:
        """Ask the decision of a revision; any trouble comes back as a fault.

        A server with bundles that does not hold the revision yet is a stale one.
        """
        prefix = BUNDLED if self._bundled else ""
        try:
            world = publication(revision.source, prefix, revision.library)
            envelope = self._envelope(world, canonical_input, deadline_seconds)
        except TextRefused as refused:
            return Evaluation(fault=Fault.EVALUATION_FAILED, detail=refused.message)
        except CompileRefused as refused:
            detail = str(refused.findings[0])
            return Evaluation(fault=Fault.EVALUATION_FAILED, detail=detail)
        except EngineFailed as failure:
            return Evaluation(fault=failure.fault, detail=failure.detail)
        return opened(envelope, world.digest)

    @contextmanager
    def trial(self) -> Iterator[OpaEngine]:
        """The same server for texts that do not decide; what is put there is taken away again."""
        with _Trial(self) as engine:
            yield engine

    def ready(self, revision: Revision, deadline_seconds: float) -> None:
        """Wait until the server can be asked about a revision.

        Raises:
            EngineFailed: not before the deadline; what was in the way.
        """
        deadline = time.monotonic() + deadline_seconds
        while True:
            found = self.evaluate(revision, b"{}", PUBLISH_SECONDS)
            if found.fault not in (Fault.STALE_REVISION, Fault.UNREACHABLE, Fault.TIMEOUT):
                return
            if time.monotonic() > deadline:
                raise EngineFailed(found.fault, f"the server has not got it: {found.detail}")
            time.sleep(READY_PAUSE_SECONDS)

    def health(self) -> Health:
        """Whether the server answers, is new enough, and has a bundle if it lives by one."""
        try:
            self._require_version()
            if self._bundled and not self._bundle_revision:
                raise EngineFailed(Fault.STALE_REVISION, "the server has no signed bundle yet")
        except EngineFailed as failure:
            return Health(False, self.name, self.version, failure.detail)
        return Health(True, self.name, self.version)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _run_test(self, query: str) -> TestResult:
        try:
            value = self._query(query, b"{}", time.monotonic() + PUBLISH_SECONDS)
        except EngineFailed as failure:
            return TestResult(rule_name(query), False, failure.detail)
        detail = "" if value is True else "the rule is not true"
        return TestResult(rule_name(query), value is True, detail)

    def _envelope(self, world: Publication, document: bytes, seconds: float) -> Any:
        """What the server says of a revision; None where it has none and is to be given none."""
        envelope = self._query(world.queries[0], document, time.monotonic() + seconds)
        if envelope is None and not self._bundled:
            # A server that was restarted has forgotten everything.
            self._require_version()
            self._publish(world.all_modules)
            envelope = self._query(world.queries[0], document, time.monotonic() + seconds)
        return envelope

    def _query(self, path: str, document: bytes, deadline: float) -> Any:
        """The value of `data.<path>`; None where the server has none."""
        route = "/v1/data/" + path.replace(".", "/")
        body = b'{"input":' + document + b"}"
        answer = self._call("POST", route, body, deadline, params=_STRICT)
        return answer.get("result")

    def _call(
        self,
        method: str,
        route: str,
        body: bytes,
        deadline: float,
        params: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """One exchange; every failure is typed.

        httpx bounds each step of an exchange, not the whole, so the rest is measured afterwards.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise EngineFailed(Fault.TIMEOUT, "no answer before the deadline")
        try:
            response = self._client.request(
                method, route, content=body, params=params, timeout=httpx.Timeout(left)
            )
        except httpx.TimeoutException as error:
            raise EngineFailed(Fault.TIMEOUT, "no answer before the deadline") from error
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            raise EngineFailed(Fault.UNREACHABLE, f"{type(error).__name__}: {error}") from error
        if time.monotonic() > deadline:
            raise EngineFailed(Fault.TIMEOUT, "no answer before the deadline")
        return self._read(response)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON object of an answer, if the server could do what it was asked."""
        try:
            answer = canonical.loads_strict(response.content or b"{}", max_bytes=LARGEST_ANSWER)
        except Refused as refused:
            detail = f"the answer cannot be read: {refused.detail}"
            raise EngineFailed(Fault.MALFORMED, detail) from refused
        if not isinstance(answer, dict):
            raise EngineFailed(Fault.MALFORMED, "the answer is no object")
        if response.status_code == httpx.codes.BAD_REQUEST:
            raise CompileRefused(answer)
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise EngineFailed(Fault.UNREACHABLE, "the server refuses our token")
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            raise EngineFailed(Fault.EVALUATION_FAILED, _message(answer))
        if response.status_code != httpx.codes.OK:
            detail = f"the server answers {response.status_code}: {_message(answer)}"
            raise EngineFailed(Fault.UNREACHABLE, detail)
        provenance = answer.get("provenance")
        if isinstance(provenance, dict):
            self._version = str(provenance.get("version", "unknown"))
            self._bundle_revision = _revision_of_bundle(provenance)
        return answer

    def _require_version(self) -> None:
        """Raise unless the server is new enough."""
        self._query("library.none", b"{}", time.monotonic() + PUBLISH_SECONDS)
        found = _VERSION.match(self._version)
        if found is None or tuple(map(int, found.groups())) < OLDEST_VERSION:
            oldest = ".".join(map(str, OLDEST_VERSION))
            detail = f"opa {self._version} is too old; {oldest} or later is needed"
            raise EngineFailed(Fault.UNREACHABLE, detail)

    def _publish(self, modules: tuple[tuple[str, str], ...]) -> None:
        """Put modules, each after those it needs; putting one again changes nothing."""
        for name, text in modules:
            deadline = time.monotonic() + PUBLISH_SECONDS
            self._call("PUT", f"/v1/policies/{name}", text.encode(), deadline)

    @contextmanager
    def _loaded(self, world: Publication) -> Iterator[None]:
        """A publication on the server for a while; the library stays."""
        self._publish(world.library)
        try:
            self._publish(world.modules)
            yield
        finally:
            for name, _ in reversed(world.modules):
                self._forget(name)

    def _forget(self, name: str) -> None:
        deadline = time.monotonic() + PUBLISH_SECONDS
        try:
            self._call("DELETE", f"/v1/policies/{name}", b"", deadline)
        except EngineFailed:
            return  # never loaded, or the server is gone; a leftover decides nothing


class _Trial(OpaEngine):
    """An engine on another's connections that remembers what it put there."""

    def __init__(self, engine: OpaEngine) -> None:
        self._client = engine._client  # noqa: SLF001 - of its own kind
        self._bundled, self._bundle_revision, self._version = False, "", "unknown"
        self._put: dict[str, None] = {}

    def __enter__(self) -> OpaEngine:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self._put):
            self._forget(name)

    def _publish(self, modules: tuple[tuple[str, str], ...]) -> None:
        # The library stays: others are on trial with it at the same time.
        mine = [name for name, _ in modules if not name.startswith("library/")]
        self._put |= dict.fromkeys(mine)
        super()._publish(modules)

    def close(self) -> None:
        """The connections are another's."""


def _revision_of_bundle(provenance: dict[str, Any]) -> str:
    """The one bundle's revision, or nothing."""
    bundles = provenance.get("bundles")
    found = bundles.get(BUNDLE_NAME) if isinstance(bundles, dict) else None
    return str(found.get("revision", "")) if isinstance(found, dict) else ""


class CompileRefused(Exception):
    """The server does not compile a module; `findings` say where."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(_message(answer))
        errors = answer.get("errors") or [{"message": _message(answer)}]
        self.findings = [_finding(error) for error in errors if isinstance(error, dict)]


def _finding(error: dict[str, Any]) -> Finding:
    """Columns of references are those of the moved text; lines are the owner's."""
    location = error.get("location") or {}
    module: Module = "tests" if str(location.get("file", "")).endswith("_test.rego") else "policy"
    return Finding(
        "error",
        str(error.get("code", "rego_compile_error")),
        str(error.get("message", "does not compile"))[:500],
        int(location.get("row", 0)),
        int(location.get("col", 0)),
        "",
        module,
    )


def _message(answer: dict[str, Any]) -> str:
    """The server's own words, nested errors first."""
    errors = answer.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return str(errors[0].get("message", ""))[:1000]
    return str(answer.get("message", "no message"))[:1000]
