"""The same records in every format, as files that are ingested and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ingest import Ingested, ingest
from jobs.ingest_source import LIMITS, Limits
from jobs.ingest_split import split_key
from jobs.members import member_key
from privacy_gateway.errors import Refused
from privacy_gateway.manifest import Manifest
from tests.support.owner_files import (
    Rows,
    write,
)
from tests.support.test_records import said

SECRET = "4217.25"

ROWS = Rows(
    who=["c7", "c3", "c7", "c5", "c3", "c7"],
    x=np.arange(12, dtype=np.float32).reshape(6, 2),
    y=[0, 1, 2, 0, 1, 2],
)


def manifest(**changes: Any) -> Manifest:
    base = {"name": "digits", "population": "pop_1", "classes": 3, **ROWS.manifest("parquet")}
    return Manifest(**(base | said(changes)))


class Files:
    """Writes owner files below one directory and ingests them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stores = home / "datasets"
        self.stores.mkdir()

    def of(self, form: str, rows: Rows = ROWS) -> Path:
        return write(form, self.home / f"data.{form}", rows)

    def raw(self, content: bytes) -> Path:
        path = self.home / "data.raw"
        path.write_bytes(content)
        return path

    def table(self, **columns: Any) -> Path:
        base = {"who": list(ROWS.who), "x": ROWS.x.tolist(), "y": list(ROWS.y)}
        pq.write_table(pa.table(base | columns), self.home / "data.parquet")
        return self.home / "data.parquet"

    def take(
        self, source: Path, clients: int = 3, limits: Limits = LIMITS, **changes: Any
    ) -> Ingested:
        made = manifest(**changes)
        return ingest(
            made,
            source,
            clients=clients,
            directory=self.stores,
            limits=limits,
            member_key=member_key(self.home, made.population),
            split_key=split_key(self.home, made.population),
        )

    def refused(self, source: Path, field: str, **options: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            self.take(source, **options)
        assert [error.field for error in caught.value.errors] == [field]
        assert SECRET not in caught.value.diagnostics()
        # A refusal leaves no file of the owner behind.
        assert list(self.stores.iterdir()) == []
        return caught.value
