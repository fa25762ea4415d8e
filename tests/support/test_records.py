"""Test records in a manifest need a word about who may measure on them."""

from __future__ import annotations

from typing import Any

NAMING = frozenset({"test", "test_features", "test_fraction"})


def said(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes of a manifest; test records they name are public unless they say otherwise."""
    return {"test_public": True} | changes if NAMING & changes.keys() else changes
