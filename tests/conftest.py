"""Fixtures every room uses. Servers are real, one set per test process; databases are per test."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from kit.db import Database
from tests.support import databases, servers

# A change is judged by the same examples as the one before it; new ones are drawn wherever somebody
# works on the project.
settings.register_profile(
    "house",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="CI" in os.environ,
)
# Mutation testing wants few examples, the same ones each time, and no smaller one that fails too.
settings.register_profile(
    "mutants",
    settings.get_profile("house"),
    derandomize=True,
    max_examples=20,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))

REPOSITORY = servers.REPOSITORY


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A soak runs only when it is asked for (`make soak`)."""
    if "soak" in (config.option.markexpr or ""):
        return
    soaks = [item for item in items if item.get_closest_marker("soak")]
    if soaks:
        config.hook.pytest_deselected(items=soaks)
        items[:] = [item for item in items if item not in set(soaks)]


def _import_tables() -> None:
    """Register every room's tables in the one metadata."""
    for room in ("accounting", "gateway", "jobs", "policies"):
        importlib.import_module(f"{room}.tables")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a running PostgreSQL whose template `house` holds the schema."""
    # Not below pytest's own folder: another session closes that to everybody but its user, and
    # the server, which runs as `nobody`, would lose its data in the middle of a test.
    with (
        tempfile.TemporaryDirectory(prefix="gateway-postgres-") as folder,
        servers.postgres(Path(folder)) as url,
    ):
        yield url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running Redis."""
    with servers.redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def opa_binary() -> str:
    """Path of a real `opa`."""
    path = servers.opa_path()
    if path is None:
        servers.missing("opa")
    assert path is not None
    return path


@pytest.fixture
def free_port() -> int:
    """A TCP port on 127.0.0.1."""
    return servers.free_port()


@pytest.fixture(scope="session")
def _postgres_template(postgres_url: str) -> str:
    """A database with every table, copied for each test."""
    _import_tables()
    databases.create(postgres_url, None, "house")
    template = Database(databases.named(postgres_url, database="house"))
    template.create_all()
    template.close()
    return postgres_url


@pytest.fixture
def postgres_database_url(_postgres_template: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database of this test alone."""
    name = databases.create(_postgres_template, "house")
    yield databases.named(_postgres_template, database=name)
    databases.drop(_postgres_template, name)


@pytest.fixture(scope="session")
def _postgres_pool(_postgres_template: str) -> databases.Pool:
    """Databases that tests use one after the other."""
    return databases.Pool(_postgres_template, "house")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file of this test alone (not yet made)."""
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed file with every table: a copy takes a fiftieth of the time of making one."""
    _import_tables()
    path = tmp_path_factory.mktemp("template") / "house.db"
    template = Database(f"sqlite:///{path}")
    template.create_all()
    template.close()
    return path


@pytest.fixture
def sqlite_database(sqlite_url: str, _sqlite_template: Path) -> Iterator[Database]:
    """SQLite with every table."""
    shutil.copy(_sqlite_template, sqlite_url.removeprefix("sqlite:///"))
    database = Database(sqlite_url)
    yield database
    database.close()


@pytest.fixture
def postgresql_database(_postgres_pool: databases.Pool) -> Iterator[Database]:
    """PostgreSQL with every table."""
    with _postgres_pool.lent() as url:
        database = Database(url)
        yield database
        database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """The same test on both databases."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets (see CONTRIBUTING), or a skip."""
    given = os.environ.get("PRIVACY_GATEWAY_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are absent; set PRIVACY_GATEWAY_TEST_DATA to their folder")
    return folder
