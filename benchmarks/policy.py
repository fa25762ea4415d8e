"""What does asking the owner's policy cost, and where does the time go?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

import httpx

from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Sizes, alternate
from jobs import region
from kit.process import free_port, spawn, stop
from policies import ask as asking
from policies import revisions
from policies.bundle import KEY_ID, SCOPE, build
from policies.embedded import EmbeddedEngine
from policies.engine import PolicyEngine, Revision
from policies.opa import BUNDLE_NAME, OpaEngine
from policies.publication import BUNDLED, publication
from policies.question import Question
from policies.verdict import decode
from privacy_gateway import canonical, schemas
from privacy_gateway.schemas import JobRequest
from tests.support import engines, market, questions, servers

SECONDS = 10.0


def ask(sizes: Sizes) -> Iterator[Table]:
    """Both engines and the parts around them, in turns."""
    table = Table(
        "policy",
        "one decision, its engines and its parts",
        ("what", "p50 µs", "p99 µs", "to embedded"),
    )
    with ExitStack() as stack:
        folder = stack.enter_context(markets.scratch())
        asked: dict[str, PolicyEngine] = {"embedded, isolated child": EmbeddedEngine(1)}
        source, _ = questions.example("price_cap")
        if binary := servers.opa_path():
            url = stack.enter_context(_opa(binary, folder))
            asked["OPA, kept connection"] = OpaEngine(url)
            url = stack.enter_context(_opa(binary, folder, config=_signed(source, folder)))
            asked["OPA, signed bundle"] = OpaEngine(url, bundled=True)
        else:
            table.notes.append("no opa on this machine; `make servers` installs it")
        for engine in asked.values():
            stack.callback(engine.close)
        revision, question = Revision.of_text(source), questions.question()
        acts: dict[str, Callable[[], object]] = {
            f"decide: {name}": partial(_decide, engine, revision, question)
            for name, engine in asked.items()
        }
        acts |= _parts(asked["embedded, isolated child"], revision, question)
        taken = alternate(acts, runs=200 if sizes.quick else 1000)
    embedded = next(iter(taken.values())).median
    for what, found in taken.items():
        p50, p99 = found.median * 1e6, found.percentile(99) * 1e6
        table.add(what, p50, p99, found.median / embedded)
    table.notes.append(
        "one caller; example policy price_cap with the whole library; a decision is question bytes "
        "to verdict; one question, whose equal answers are read once"
    )
    yield table
    yield _region(sizes)


def _region(sizes: Sizes) -> Table:
    """A grid around one request, cold (every mechanism priced anew) and warm."""
    table = Table(
        "region", "the allowed region, 1,000 points", ("what", "points", "seconds", "µs a point")
    )
    with markets.scratch() as folder, markets.sqlite(folder) as database, market.engine(1) as made:
        opened = market.open_market(database, made, folder)
        with database.read() as session:
            revision = revisions.active(session, opened.dataset_id)
        if revision is None:
            raise RuntimeError("the market has no policy")
        request = market.request(opened.dataset_id)
        axes = region.axes_around(request, 1000)
        runs = ["cold"] + ["warm"] * (1 if sizes.quick else 5)
        for what in runs:
            started = perf_counter()
            args = (opened.services, made, market.RESEARCHER, revision, request, axes)
            points = len(region.sweep(*args).points)
            taken = perf_counter() - started
            table.add(what, points, taken, taken / points * 1e6)
    table.notes.append("embedded engine; target: 1,000 points ≤ 1 s")
    return table


def _parts(
    engine: PolicyEngine, revision: Revision, question: Question
) -> dict[str, Callable[[], object]]:
    """What happens before and after an engine's own work."""
    body = canonical.dumps(market.body("ds_1"), floats=True)
    answer = engine.evaluate(revision, question.canonical, SECONDS).answer
    return {
        "parse a request body": lambda: schemas.parse(
            JobRequest, canonical.loads_strict(body, max_bytes=1 << 20, max_depth=32)
        ),
        "build a question": lambda: Question.of_document(question.document),
        "read a verdict": lambda: decode(answer),
    }


def _decide(engine: PolicyEngine, revision: Revision, question: Question) -> None:
    """One decision that must be the policy's own.

    Raises:
        RuntimeError: the engine failed, so its time means nothing.
    """
    decision = asking.ask(engine, revision, question, deadline_seconds=SECONDS)
    if decision.fault is not None:
        raise RuntimeError(f"{engine.name}: {decision.fault}: {decision.detail}")


def _signed(source: str, folder: Path) -> Path:
    """Configuration of a server that takes a policy from a signed bundle, here from a file."""
    key = engines.new_bundle_key()
    bundle, config = folder / "bundle.tar.gz", folder / "opa.json"
    bundle.write_bytes(build([publication(source, BUNDLED)], key).archive)
    wanted = engines.opa_configuration("http://127.0.0.1", "unused", "unused", key)
    signing = {"keyid": KEY_ID, "scope": SCOPE}
    wanted["bundles"] = {BUNDLE_NAME: {"resource": bundle.as_uri(), "signing": signing}}
    config.write_text(json.dumps(wanted))
    return config


@contextmanager
def _opa(binary: str, folder: Path, *, config: Path | None = None) -> Iterator[str]:
    """A server on this machine; yields its URL."""
    address = f"127.0.0.1:{free_port()}"
    options = ["--addr", address, "--skip-version-check", "--log-level", "error"]
    options += ["--config-file", str(config)] if config else []
    with (folder / "opa.log").open("ab") as log:
        server = spawn([binary, "run", "--server", *options], stdout=log, stderr=log, cwd=folder)
    try:
        servers.wait_until(lambda: _answers(f"http://{address}/health?bundles"), what="OPA")
        yield f"http://{address}"
    finally:
        stop(server)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=1).is_success
    except httpx.HTTPError:
        return False
