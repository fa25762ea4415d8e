"""Engines for policy tests: the embedded pool and a real OPA server, one each per test process.

A `conftest.py` that wants the fixtures imports them by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kit.process import spawn, stop
from policies.bundle import ALGORITHM, KEY_ID, SCOPE, BundleKey
from policies.embedded import EmbeddedEngine
from policies.opa import BUNDLE_NAME, OpaEngine
from tests.support.servers import free_port, wait_until

# A policy without an end would take more; what a deadline has ended is there long before, also on
# a machine that others use.
ENDLESS_SECONDS = 10.0


@contextmanager
def opa_server(
    binary: str,
    folder: Path,
    port: int | None = None,
    *,
    config: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """A running `opa`, with a configuration file and further options if given; yields its URL."""
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
                *options,
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


def opa_configuration(url: str, resource: str, token: str, key: BundleKey) -> dict[str, Any]:
    """What makes a server take our bundles from `url` every second, as in a deployment."""
    return {
        "services": {"gateway": {"url": url, "credentials": {"bearer": {"token": token}}}},
        "keys": {KEY_ID: {"algorithm": ALGORITHM, "key": key.public}},
        "bundles": {
            BUNDLE_NAME: {
                "service": "gateway",
                "resource": resource,
                "signing": {"keyid": KEY_ID, "scope": SCOPE},
                "polling": {"min_delay_seconds": 0, "max_delay_seconds": 1},
            }
        },
    }


def new_bundle_key() -> BundleKey:
    """A fresh key, P-256."""
    return BundleKey(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False, timeout=1).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedEngine]:
    """The embedded engine."""
    engine = EmbeddedEngine(2, test_seconds=20.0)
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
