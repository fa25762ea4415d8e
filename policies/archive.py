"""The Rego library's texts as they were when they decided, so that the past can be asked again.

A decision names its library by digest; a new version of the gateway brings another one. The texts
are kept by that digest from the first start of a version and from every activation, and an audit
asks old decisions with the old texts. What does not have the digest it is stored under is not
used. This module must never change or forget a text.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from kit.clock import micros
from policies.library import Library, library, library_of
from policies.tables import PolicyLibrary
from privacy_gateway import canonical
from privacy_gateway.errors import Refused

_LIBRARY = cast("sa.Table", PolicyLibrary.__table__)  # type: ignore[attr-defined]
LARGEST_LIBRARY = 1024 * 1024


def keep(session: Session, *, now: datetime, texts: Library | None = None) -> None:
    """Store a library (the installed one by default) unless it is there."""
    texts = texts or library()
    known = sa.select(_LIBRARY.c.digest).where(_LIBRARY.c.digest == texts.digest)
    if session.execute(known).scalar_one_or_none() is not None:
        return
    row = {
        "digest": texts.digest,
        "texts": canonical.dumps(dict(texts.modules)).decode(),
        "created_at": micros(now),
    }
    try:
        with session.begin_nested():
            session.execute(_LIBRARY.insert().values(row))
    except IntegrityError:
        return  # another process of the same version was first


def kept(session: Session, digests: Collection[str]) -> dict[str, Library]:
    """The libraries that are stored under these digests and have them."""
    rows = session.execute(sa.select(_LIBRARY).where(_LIBRARY.c.digest.in_(sorted(digests))))
    read = {row.digest: _library(row.texts) for row in rows}
    return {
        digest: stored
        for digest, stored in read.items()
        if stored is not None and stored.digest == digest
    }


def _library(text: str) -> Library | None:
    """A stored library; None for a text that is none, so that a damaged row hides no other."""
    try:
        return library_of(canonical.loads_strict(text.encode(), max_bytes=LARGEST_LIBRARY))
    except (Refused, AttributeError, LookupError, TypeError, ValueError):
        return None
