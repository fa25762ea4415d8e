"""What blocks and shares had spent at an earlier moment, from the entries up to it.

An entry states the balance of everybody and of its own block; what a researcher or project had
spent follows from the rounds that its jobs reserved, charged and gave back. The database sums the
rounds, so a long past costs one grouped query. This module only reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import blocks, quotas
from accounting.blocks import Block, shifted
from accounting.budget import Terms
from accounting.filter import Vector, zero
from accounting.quotas import Kind, QuotaBalance
from accounting.tables import ENTRY, RESERVATION
from privacy_gateway import gdp

_ROUNDS = (
    sa.select(
        RESERVATION.c.researcher_id,
        RESERVATION.c.project,
        RESERVATION.c.block,
        RESERVATION.c.per_round,
        ENTRY.c.kind,
        sa.func.sum(ENTRY.c.rounds).label("rounds"),
    )
    .join(RESERVATION, RESERVATION.c.job_id == ENTRY.c.job_id)
    .where(
        ENTRY.c.population_id == sa.bindparam("population"),
        ENTRY.c.seq <= sa.bindparam("last"),
        ENTRY.c.kind.in_(("reserve", "charge", "void")),
    )
    .group_by(
        RESERVATION.c.researcher_id,
        RESERVATION.c.project,
        RESERVATION.c.block,
        RESERVATION.c.per_round,
        ENTRY.c.kind,
    )
    # Charges and returns draw from what was reserved, so reservations are added up first.
    .order_by(sa.case((ENTRY.c.kind == "reserve", 0), else_=1))
)
_QUOTAS = (
    sa.select(ENTRY.c.leaf)
    .where(
        ENTRY.c.population_id == sa.bindparam("population"),
        ENTRY.c.seq <= sa.bindparam("last"),
        ENTRY.c.kind == "quota",
    )
    .order_by(ENTRY.c.seq)
)
_VERB = {"reserve": "hold", "charge": "spend", "void": "release"}


def at(
    session: Session, population_id: str, last: int, delta: str
) -> tuple[list[Block], list[QuotaBalance]]:
    """Blocks and shares as the entry with the sequence number `last` left them.

    Args:
        session: reads only.
        population_id: whose.
        last: the entry that was the head.
        delta: the budget's δ text.

    Returns:
        The blocks that were open, by name, and the shares: researchers by id, projects by name.
    """
    open_blocks = {
        block.name: replace(block, charged=zero(), reserved=zero())
        for block in blocks.blocks(session, population_id)
        if block.opened_seq <= last
    }
    shares: dict[tuple[Kind, str], QuotaBalance] = {}
    for who, block, move in _moves(session, population_id, last):
        for kind, holder in who:
            share = shares.get((kind, holder)) or quotas.nothing(population_id, holder, kind)
            shares[kind, holder] = shifted(share, **move)
        if block is not None:
            open_blocks[block] = shifted(open_blocks[block], **move)
    for kind, holder, terms in _terms(session, population_id, last, delta):
        share = shares.get((kind, holder)) or quotas.nothing(population_id, holder, kind)
        shares[kind, holder] = replace(share, terms=terms)
    order = sorted(shares, key=lambda key: (key[0] != "researcher", key[1]))
    return list(open_blocks.values()), [shares[key] for key in order]


def _moves(
    session: Session, population_id: str, last: int
) -> Iterator[tuple[list[tuple[Kind, str]], str | None, dict[str, Vector]]]:
    """Who is charged, whom it counts for, and how much of what."""
    for row in session.execute(_ROUNDS, {"population": population_id, "last": last}):
        who: list[tuple[Kind, str]] = [("researcher", row.researcher_id)]
        if row.project is not None:
            who.append(("project", row.project))
        cost = tuple(part * int(row.rounds) for part in row.per_round)
        yield who, row.block, {_VERB[row.kind]: cost}


def _terms(
    session: Session, population_id: str, last: int, delta: str
) -> Iterator[tuple[Kind, str, Terms]]:
    """Every share that was set, in the order of setting."""
    for text in session.execute(_QUOTAS, {"population": population_id, "last": last}).scalars():
        leaf: dict[str, Any] = json.loads(text)
        kind: Kind = "project" if "project" in leaf else "researcher"
        epsilon_nano, weights = leaf["quota"]["epsilon_nano"], tuple(leaf["quota"]["weights"])
        limits = gdp.limits_of(epsilon_nano, delta, weights)
        yield kind, leaf[kind], Terms(epsilon_nano, delta, weights, limits)
