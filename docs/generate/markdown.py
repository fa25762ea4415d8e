"""Markdown from values: tables, cells that cannot break a table, and docstrings as paragraphs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; an empty string without rows."""
    lines = [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines, ""])


def cell(value: object) -> str:
    """A value as the inside of a table cell: one line, no column separator."""
    return re.sub(r"\s+", " ", str(value)).strip().replace("|", "\\|")


def code(value: object) -> str:
    """A value in code type; empty where there is none."""
    return "" if value in (None, "") else f"`{value}`"


def document(*parts: str) -> str:
    """Parts with an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def docstring(thing: object) -> str:
    """A docstring up to its Google-style sections."""
    text = inspect.getdoc(thing) or ""
    return re.split(r"\n\n(?:Args|Returns|Raises|Attributes):", text)[0].strip()


def attributes(thing: type) -> dict[str, str]:
    """The `Attributes:` section of a class's own docstring."""
    section = (thing.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if not text:
            break
        if indent == 8:
            name, _, rest = text.partition(":")
            found[name] = rest.strip()
        elif name:
            found[name] += f" {text}"
    return found
