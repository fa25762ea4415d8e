"""A real gateway over real HTTP: uvicorn on a free port, SQLite, the embedded engine."""

from __future__ import annotations

import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from gateway import auth, schema
from gateway.app import create_app
from gateway.settings import GatewaySettings
from jobs.services import Services
from kit.clock import utc_now
from kit.db import Database
from kit.ids import new_id
from policies.embedded import EmbeddedEngine
from policies.engine import PolicyEngine
from privacy_gateway.schemas import Role

PASSWORD = "correct horse battery"
# What a client trusts is read from a file for each one, which takes longer than most requests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ROLES: tuple[Role, ...] = ("admin", "owner", "researcher", "auditor")


@dataclass(frozen=True)
class Gateway:
    """A running gateway, and clients that are logged in."""

    url: str
    app: FastAPI
    services: Services
    tokens: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def client(self, who: str | None = None) -> httpx.Client:
        """An HTTP client as one of the accounts; `None` carries no token."""
        headers = {"Authorization": f"Bearer {self.tokens[who]}"} if who else {}
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=NO_TLS
        )

    def add(self, name: str, role: Role) -> str:
        """One more account, called `name`; answers its id."""
        with self.services.database.unit_of_work() as session:
            user = auth.create_user(
                session,
                email=f"{name}@example.org",
                password_hash=_hash(),
                role=role,
                organisation="default",
                now=utc_now(),
                new_id=new_id,
            )
            issued = auth.issue(
                session, user_id=user.id, label="test", now=utc_now(), hours=1, new_id=new_id
            )
            self.tokens[name], self.ids[name] = issued.text, user.id
            return user.id

    def ok(self, who: str, method: str, path: str, **options: Any) -> Any:
        """JSON of a request that must succeed."""
        with self.client(who) as client:
            answer = client.request(method, path, **options)
        assert answer.is_success, f"{method} {path} → {answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def refused(self, who: str | None, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The problem document of a request that must be refused."""
        with self.client(who) as client:
            answer = client.request(method, path, **options)
        assert answer.is_client_error or answer.status_code == 503, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = answer.json()
        assert document["status"] == answer.status_code
        return document


@cache
def _hash() -> str:
    return auth.hash_password(PASSWORD)


@pytest.fixture(scope="session")
def engine() -> Iterator[PolicyEngine]:
    embedded = EmbeddedEngine(1, test_seconds=20.0)
    yield embedded
    embedded.close()


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    (tmp_path / "import").mkdir()
    return GatewaySettings(
        state_dir=tmp_path / "state",
        import_directories=str(tmp_path / "import"),
        event_poll_seconds=0.02,
        housekeeping_seconds=0.05,
        policy_deadline_seconds=20.0,  # half a second is not much on a machine that others use
    )


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed SQLite file after all migrations, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "gateway.db"
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    database.close()
    return path


@pytest.fixture
def services(settings: GatewaySettings, engine: PolicyEngine, migrated: Path) -> Iterator[Services]:
    settings.state_dir.mkdir()
    database = Database(settings.database())
    shutil.copy(migrated, database.url.database or "")
    yield Services(settings, database, engine)
    database.close()


@pytest.fixture
def gateway(settings: GatewaySettings, services: Services) -> Iterator[Gateway]:
    """One account per role, named after it."""
    with running(settings, services) as house:
        for role in ROLES:
            house.add(role, role)
        yield house


@contextmanager
def running(settings: GatewaySettings, services: Services) -> Iterator[Gateway]:
    """A gateway on a free port until the block ends."""
    app = create_app(settings, services)
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the gateway did not start"
        assert time.monotonic() < deadline, "the gateway did not start in time"
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Gateway(f"http://127.0.0.1:{port}", app, services)
    finally:
        server.should_exit = True
        thread.join(10)


__all__ = ["PASSWORD", "ROLES", "Gateway", "replace", "running"]
