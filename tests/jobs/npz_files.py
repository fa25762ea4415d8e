"""Owner files as arrays and as text, written, ingested and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.ingest import Ingested, ingest
from jobs.ingest_source import LIMITS, Limits
from kit.ragged import RaggedStore
from privacy_gateway.errors import Refused
from privacy_gateway.manifest import Manifest
from tests.support.test_records import said

SECRET = "4217.25"


def manifest(**changes: Any) -> Manifest:
    """A manifest of `columns()`, or of `lines()`, with changes."""
    base: dict[str, Any] = {
        "name": "digits",
        "population": "pop_1",
        "client": "who",
        "features": ["x"],
        "label": "y",
        "format": "npz",
        "classes": 3,
    }
    return Manifest(**(base | said(changes)))


def columns(**changes: Any) -> dict[str, Any]:
    """Six rows of three clients, out of order."""
    base: dict[str, Any] = {
        "x": np.arange(12, dtype=np.float32).reshape(6, 2),
        "y": np.array([0, 1, 2, 0, 1, 2]),
        "who": np.array([7, 3, 7, 5, 3, 7]),
    }
    return base | changes


class Files:
    """Writes owner files below one directory and ingests them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stores = home / "datasets"

    def npz(self, **arrays: Any) -> Path:
        np.savez(self.home / "data.npz", **columns(**arrays))
        return self.home / "data.npz"

    def text(self, text: str | bytes) -> Path:
        path = self.home / "data.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def take(
        self, source: Path, clients: int = 3, limits: Limits = LIMITS, **changes: Any
    ) -> Ingested:
        return ingest(
            manifest(**changes), source, clients=clients, directory=self.stores, limits=limits
        )

    def refused(self, source: Path, field: str, **options: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            self.take(source, **options)
        assert [error.field for error in caught.value.errors] == [field]
        assert SECRET not in caught.value.diagnostics()
        # A refusal leaves no file of the owner behind.
        assert not self.stores.exists() or list(self.stores.iterdir()) == []
        return caught.value


def rows_of(store: RaggedStore, client: int) -> list[list[float]]:
    start, stop = store.offsets[client], store.offsets[client + 1]
    return store.column("features")[start:stop].tolist()  # type: ignore[no-any-return]


def csv_text(*lines: str) -> str:
    return "\n".join(["who,a,b,y", *lines, ""])


CSV = {"format": "csv", "features": ["a", "b"]}
