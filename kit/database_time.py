"""The database's own clock, by which leases and signs of life are measured: workers' differ."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class database_micros(FunctionElement[int]):  # noqa: N801
    """Whole microseconds since 1970 UTC, at the moment of the statement."""

    type = sa.BigInteger()
    inherit_cache = True
    name = "database_micros"


@compiles(database_micros, "postgresql")
def _postgresql_micros(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(database_micros, "sqlite")
def _sqlite_micros(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"
