"""A database with one open budget."""

from __future__ import annotations

import pytest

from kit.db import Database
from tests.accounting.support import open_population


@pytest.fixture
def opened(database: Database) -> Database:
    """Population `pop_a`, a thousand people with (8, 1e-6)."""
    with database.unit_of_work() as session:
        open_population(session)
    return database
