"""The health checks that run inside the images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy.exc import SQLAlchemyError

from jobs.services import Services
from jobs.settings import Settings
from kit.db import Database
from policies.embedded import EmbeddedEngine
from tests.support.servers import REPOSITORY
from worker.app import _Presence

IMAGE = REPOSITORY / "deploy" / "image"


def _check(room: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(IMAGE / f"check_{room}.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_worker_is_healthy_while_its_sign_of_life_is_young(tmp_path: Path) -> None:
    """Missing or old is ill."""
    alive = tmp_path / "alive"
    assert _check("worker", PRIVACY_GATEWAY_ALIVE_FILE=str(alive)).returncode == 1
    alive.touch()
    assert _check("worker", PRIVACY_GATEWAY_ALIVE_FILE=str(alive)).returncode == 0
    os.utime(alive, (time.time() - 300, time.time() - 300))
    old = _check("worker", PRIVACY_GATEWAY_ALIVE_FILE=str(alive))
    assert old.returncode == 1
    assert "no sign of life" in old.stderr


def test_the_sign_is_given_only_when_the_database_took_it(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """A worker that lost its database looks ill."""
    settings = Settings(state_dir=tmp_path, alive_file=tmp_path / "alive")
    engine = EmbeddedEngine(1)
    services = Services(settings, sqlite_database, engine, lambda: datetime.now(UTC))
    try:
        with sqlite_database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE worker_presence RENAME TO elsewhere")
        with pytest.raises(SQLAlchemyError):
            _Presence(services, "worker-1")()
        assert not (tmp_path / "alive").exists()
        with sqlite_database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO worker_presence")
        _Presence(services, "worker-1")()
        assert (tmp_path / "alive").exists()
    finally:
        engine.close()


def test_the_gateway_is_healthy_while_it_answers() -> None:
    """Any other answer than success, or none, is ill."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    port = str(server.server_address[1])
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        assert _check("gateway", PRIVACY_GATEWAY_PORT=port).returncode == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert _check("gateway", PRIVACY_GATEWAY_PORT=port).returncode == 1


class _Answers(BaseHTTPRequestHandler):
    """Says 200 to `/healthz` alone."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""
