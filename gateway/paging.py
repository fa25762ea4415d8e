"""Keyset pages: stable under inserts, as cheap on page 1,000 as on page 1.

Identifiers sort by time of making, so a page is "after this id, so many". A page must never be
cut by OFFSET, and never say how many there are: a count would be one more thing to protect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import Session

from gateway.deps import Paging
from privacy_gateway.views import Page

Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)


def page(
    session: Session,
    query: sa.Select[Row],
    column: sa.Column[Any],
    asked: Paging,
    view: Callable[[Row], Item],
) -> Page[Item]:
    """Run `query` for one page in the order of `column`, a unique one of its row."""
    if asked.after is not None:
        query = query.where(column > asked.after)
    rows = session.scalars(query.order_by(column).limit(asked.limit + 1)).all()
    return cut(rows, asked, lambda row: str(getattr(row, column.key)), view)


def cut(
    rows: Sequence[Row],
    asked: Paging,
    key: Callable[[Row], str],
    view: Callable[[Row], Item],
) -> Page[Item]:
    """A page from up to `limit + 1` rows: the extra one only says that there is more."""
    shown = rows[: asked.limit]
    following = key(shown[-1]) if len(rows) > asked.limit else None
    return Page(items=[view(row) for row in shown], next=following)
