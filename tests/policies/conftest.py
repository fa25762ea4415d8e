"""The policy engines of `tests.support.engines`."""

from __future__ import annotations

from tests.support.engines import embedded, engine, opa, opa_url

__all__ = ["embedded", "engine", "opa", "opa_url"]
