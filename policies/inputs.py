"""Follows a path of a policy through the JSON Schema of its input, to catch unknown names.

A misspelt path is undefined in Rego, and a rule that reads it never fires: the worst kind of error,
because nothing looks wrong. This module must never accept a name the schema does not have.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any


class PathRefused(Exception):
    """The first segment that leads nowhere, and the names that stood there."""

    def __init__(self, segment: str, names: tuple[str, ...]) -> None:
        super().__init__(segment)
        self.segment = segment
        self.names = names


def follow(
    schema: Mapping[str, Any] | None, segments: tuple[str | None, ...]
) -> Mapping[str, Any] | None:
    """The schema at the end of a path; None where a variable makes it unknown.

    Raises:
        PathRefused: a fixed segment that the schema does not have.
    """
    for segment in segments:
        if schema is None:
            return None
        if "items" in schema:
            schema = schema["items"]
            continue
        members: Mapping[str, Any] = schema.get("properties", {})
        if segment is None and members:
            return None
        if segment is None or segment not in members:
            raise PathRefused(segment or "[…]", tuple(members))
        schema = members[segment]
    return schema


def suggestion(refused: PathRefused) -> str:
    """What was perhaps meant."""
    close = difflib.get_close_matches(refused.segment, refused.names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if refused.names:
        return "known here: " + ", ".join(refused.names)
    return "this value has no members"
