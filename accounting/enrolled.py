"""Whether the people of each block are those that the ledger sealed.

An entry tells how many people a block has and the digest of their keyed hashes, never who they are:
a restored backup may lack people who were enrolled since. Until they are enrolled again nobody can
tell them apart from the people of other blocks. This module only reads.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting.tables import ENTRY
from accounting.tables_scope import MEMBER

_BATCH: Final = 5000
_NOTES = (
    sa.select(ENTRY.c.leaf)
    .where(ENTRY.c.population_id == sa.bindparam("population"), ENTRY.c.kind == "note")
    .order_by(ENTRY.c.seq)
)


def digest(session: Session, population_id: str, name: str) -> str:
    """SHA-256 (hex) over the sorted keyed hashes of a block."""
    found = hashlib.sha256()
    query = (
        sa.select(MEMBER.c.hash)
        .where(MEMBER.c.population_id == population_id, MEMBER.c.block == name)
        .order_by(MEMBER.c.hash)
    )
    for hash_ in session.execute(query.execution_options(yield_per=_BATCH)).scalars():
        found.update(hash_)
    return found.hexdigest()


def sealed(session: Session, population_id: str) -> dict[str, str]:
    """The digest of each block's people when most of them were enrolled, by block.

    People never leave a block, so of several such enrolments the first is the one to believe:
    one that came after a restore may have sealed others.
    """
    found: dict[str, tuple[int, str]] = {}
    for text in session.execute(_NOTES, {"population": population_id}).scalars():
        fact = json.loads(text).get("enrolled")
        if fact is not None and fact["members"] > found.get(fact["block"], (0, ""))[0]:
            found[fact["block"]] = (fact["members"], fact["members_digest"])
    return {name: digest for name, (_, digest) in found.items()}


def lost(session: Session, population_id: str) -> list[str]:
    """Blocks whose people are not those that were sealed."""
    return [
        name
        for name, wanted in sorted(sealed(session, population_id).items())
        if digest(session, population_id, name) != wanted
    ]
