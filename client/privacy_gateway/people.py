"""Replaying blocks: which people of a population share nothing, and what counts for each of them.

Part of the replay of a ledger (`privacy_gateway.replay`). An export holds no hash of a person, so
that blocks are disjoint is the database's to keep; that nobody was admitted beyond the budget,
given the blocks, is checked here. It must never trust a stated balance.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from privacy_gateway import rdp
from privacy_gateway.prices import MAX_COUNT, Finding, Vector, whole

_ZERO: Final = (0,) * len(rdp.ORDERS)


@dataclass(slots=True)
class Block:
    """A block's own spending, and the data sets whose people are enrolled in it."""

    name: str
    clients: int
    members: int = 0
    charged: Vector = _ZERO
    reserved: Vector = _ZERO
    datasets: set[str] = field(default_factory=set)

    def disagreements(
        self, leaf: Mapping[str, Any], *, admitted: bool = False
    ) -> Iterator[Finding]:
        """What an entry says of the block that does not follow from the entries before."""
        stated = leaf["block"]
        for name in ("charged", "reserved"):
            derived, said = getattr(self, name), stated[name]
            if tuple(said) != derived or any(type(part) is not int for part in said):
                yield "balance", f"the stated {name} of block {self.name} does not follow"
        if min(self.reserved) < 0:
            yield "balance", f"more was drawn from block {self.name} than had been reserved"
        if admitted and leaf["facts"]["dataset"] not in self.datasets:
            yield "rule", f"job {leaf['job']} counts for a block its data set was not enrolled in"


class People:
    """The blocks of one population."""

    def __init__(self) -> None:
        self.blocks: dict[str, Block] = {}
        self._key: str | None = None
        self._digests: dict[str, str] = {}

    def block_of(self, leaf: Mapping[str, Any]) -> Block | None:
        """The block that an entry counts for; None for everybody.

        Raises:
            KeyError: it was never opened.
        """
        return self.blocks[leaf["block"]["name"]] if "block" in leaf else None

    def open(self, fact: Mapping[str, Any], clients: int) -> Iterator[Finding]:
        """A new block; all blocks together have no more people than the population."""
        name, size = fact["block"], whole(fact["clients"], "clients", MAX_COUNT)
        if name in self.blocks:
            yield "rule", f"block {name} was opened twice"
        self.blocks[name] = Block(name, size)
        if sum(block.clients for block in self.blocks.values()) > clients:
            yield "rule", f"with block {name}, the blocks have more people than the population"

    def enrol(self, fact: Mapping[str, Any], clients: int) -> Iterator[Finding]:
        """A data set's people join a block."""
        block = self.blocks[fact["block"]]
        joined = fact["joined"] and whole(fact["joined"], "joined", MAX_COUNT)
        if fact["clients"] != block.clients or fact["members"] != block.members + joined:
            yield "rule", f"the numbers of block {block.name} do not follow"
        block.members = whole(fact["members"], "members", MAX_COUNT)
        if block.members < block.clients:
            yield "rule", f"block {block.name} has fewer people than its data sets"
        yield from self._apart(block.name, fact)
        block.datasets.add(fact["dataset"])
        if self._key not in (None, fact["key_id"]):
            yield "rule", f"the people of block {block.name} were hashed with another key"
        self._key = fact["key_id"]
        if sum(one.members for one in self.blocks.values()) > clients:
            yield "rule", "more people are in blocks than the population has"

    def _apart(self, name: str, fact: Mapping[str, Any]) -> Iterator[Finding]:
        """Whose loss counts for one block cannot be in another as well."""
        self._digests[name] = fact["members_digest"]
        for other in self.blocks.values():
            if other.name == name:
                continue
            if fact["dataset"] in other.datasets:
                yield "rule", f"data set {fact['dataset']} is in blocks {other.name} and {name}"
            if self._digests.get(other.name) == fact["members_digest"]:
                yield "rule", f"blocks {other.name} and {name} have the same people"

    def charged(self, everybody: Vector) -> list[Vector]:
        """What each block's people were charged; without blocks, what everybody was."""
        return [_plus(everybody, one.charged) for one in self.blocks.values()] or [everybody]

    def committed(self, everybody: Vector) -> list[Vector]:
        """The same with reservations."""
        return [
            _plus(_plus(everybody, one.charged), one.reserved) for one in self.blocks.values()
        ] or [everybody]


def _plus(first: Vector, second: Vector) -> Vector:
    return tuple(map(operator.add, first, second))
