"""How things look: plain text in a terminal, a small table in a notebook.

Everything shown is escaped; a name chosen by somebody else must never become markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = "text-align:left;vertical-align:top;padding:2px 10px 2px 0"


def text_of(value: Any) -> str:
    """A value as a person reads it."""
    if value is None or value in ([], (), {}):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text_of(member)}" for name, member in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text_of(member) for member in value)
    return str(value)


def plain_facts(title: str, facts: Mapping[str, Any]) -> str:
    """Title, then one fact a line."""
    width = max((len(name) for name in facts), default=0)
    return "\n".join([title, *(f"  {n:<{width}}  {text_of(v)}" for n, v in facts.items())])


def html_facts(title: str, facts: Mapping[str, Any]) -> str:
    """The same as a table for a notebook."""
    rows = "".join(
        f'<tr><th style="{_STYLE}">{escape(name)}</th>'
        f'<td style="{_STYLE}">{escape(text_of(fact))}</td></tr>'
        for name, fact in facts.items()
    )
    return f"<div><strong>{escape(title)}</strong><table>{rows}</table></div>"


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns under a header."""
    cells = [list(columns), *([text_of(value) for value in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The same for a notebook."""
    head = "".join(f'<th style="{_STYLE}">{escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_STYLE}">{escape(text_of(v))}</td>' for v in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


class Document(dict[str, Any]):
    """A JSON object that shows itself: receipts, budgets, entries."""

    def __init__(self, title: str, members: Mapping[str, Any]) -> None:
        super().__init__(members)
        self.title = title

    def __repr__(self) -> str:
        return plain_facts(self.title, self)

    def _repr_html_(self) -> str:
        return html_facts(self.title, self)
