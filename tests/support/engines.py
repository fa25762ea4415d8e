"""Engines for policy tests: the embedded pool and a real OPA server, one each per test process.

A `conftest.py` that wants the fixtures imports them by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from kit.process import free_port, spawn, stop
from policies.embedded import EmbeddedEngine
from policies.opa import OpaEngine
from tests.support.servers import wait_until


@contextmanager
def opa_server(
    binary: str, folder: Path, port: int | None = None, *, config: Path | None = None
) -> Iterator[str]:
    """A running `opa`, with a configuration file if one is given; yields its URL."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "opa.log").open("wb") as log:
        server = spawn(
            [
                binary,
                "run",
                "--server",
                "--addr",
                f"127.0.0.1:{port}",
                "--skip-version-check",
                "--log-level",
                "error",
                *(["--config-file", str(config)] if config else []),
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        wait_until(lambda: _answers(url), what="OPA")
        yield url
    finally:
        stop(server)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False, timeout=1).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedEngine]:
    """The embedded engine."""
    engine = EmbeddedEngine(2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def opa_url(opa_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running OPA server."""
    with opa_server(opa_binary, tmp_path_factory.mktemp("opa")) as url:
        yield url


@pytest.fixture(scope="session")
def opa(opa_url: str) -> Iterator[OpaEngine]:
    """The OPA engine on a real server."""
    engine = OpaEngine(opa_url)
    yield engine
    engine.close()


@pytest.fixture(params=["embedded", "opa"])
def engine(request: pytest.FixtureRequest) -> EmbeddedEngine | OpaEngine:
    """The same test on both engines."""
    return request.getfixturevalue(request.param)
