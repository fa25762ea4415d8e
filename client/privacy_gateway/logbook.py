"""The end of an export: how its entries stand in the log, and the checkpoint that commits to them.

After the heads a full export has `order` lines, which say how the chains were merged into the log
and which root that leads to; an export of some populations has one `proof` line for each instead.
The last line is the signed checkpoint; the header promises its size and the number of proofs. The
reader collects these lines while the entries stream by and judges at the end: a tree over damaged
entries would only repeat what is already known. It must never take a root, a size or a key from
the export on trust.

    {"format":…,"log":{"proofs":1,"size":9},"populations":1}
    {"order":{"from":0,"root":"<hex>","runs":[chain, count, chain, count, …],"size":4096}}
    {"proof":{"index":7,"path":["<hex>",…],"population":"pop_…","seq":3,"size":9}}
    {"checkpoint":"<signed note>"}

In `runs`, chains are numbered in the order of the head lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from privacy_gateway import checkpoint, merkle
from privacy_gateway.checkpoint import BadNote, Checkpoint, Verifier

KINDS: Final = ("order", "proof", "checkpoint")
SEAL_BYTES: Final = 32

_FLAWS: Final = {"malformed": "signature", "bad_signature": "signature", "unknown_key": "key"}


class Finding(NamedTuple):
    """One fault: line of the export, kind and a sentence."""

    line: int
    kind: str
    detail: str
    population: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the verifier knows from elsewhere.

    Attributes:
        keys: public keys of the log; no signature is checked without one.
        older: note of a checkpoint kept from earlier; the log must still lead to it.
    """

    keys: Sequence[Verifier] = ()
    older: str | None = None


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found out about the log.

    Attributes:
        origin: the log's name, as the checkpoint says.
        size: leaves under the checkpoint.
        root: its root, hex.
        complete: whether the whole tree was recomputed (else heads were proven).
        beyond: exported entries that the checkpoint was not shown to cover: newer ones.
        signed_by: keys whose signature was checked.
        grown_from: size of the older checkpoint that the log still leads to.
    """

    origin: str
    size: int
    root: str
    complete: bool
    beyond: int
    signed_by: tuple[str, ...]
    grown_from: int | None


class Logbook:
    """Collects the lines after the heads and judges them once everything is read."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._orders: list[tuple[int, dict[str, Any]]] = []
        self._proofs: list[tuple[int, dict[str, Any]]] = []
        self._note: tuple[int, str] | None = None
        self._grown_from: int | None = None

    def read(self, line: int, parsed: Any) -> bool:
        """Take one parsed line; False when it is not of the documented form."""
        if not isinstance(parsed, dict) or len(parsed) != 1 or self._note is not None:
            return False
        ((kind, body),) = parsed.items()
        if kind == "checkpoint" and isinstance(body, str):
            self._note = (line, body)
        elif kind == "order" and _is_order(body):
            self._orders.append((line, body))
        elif kind == "proof" and _is_proof(body):
            self._proofs.append((line, body))
        else:
            return False
        return True

    def judge(
        self, seals: Mapping[str, bytes], promised: dict[str, int] | None, *, intact: bool
    ) -> tuple[list[Finding], LogReport | None]:
        """Compare the log's lines with the entries.

        Args:
            seals: 32 bytes an entry by population, in the order of the head lines.
            promised: what the export's header announced: `size` of the log, number of `proofs`.
            intact: whether every entry was found in its place; a tree is recomputed only then.
        """
        findings = list(self._absent(promised))
        if self._note is None:
            return findings, None
        line, note = self._note
        try:
            stated = checkpoint.parse(note).checkpoint
        except BadNote as error:
            return [*findings, Finding(line, "signature", error.detail)], None
        if promised is None or promised["size"] != stated.size:
            findings.append(Finding(line, "tree", "header and checkpoint differ in size"))
        elif promised.get("proofs", 0) != len(self._proofs):
            findings.append(Finding(line, "truncated", "proofs are missing before the checkpoint"))
        signed_by, flaws = self._signatures(line, note)
        findings += flaws
        older, flaws = self._older(line, stated)
        findings += flaws
        if intact:
            findings += self._tree(line, stated, seals, older)
        return findings, LogReport(
            origin=stated.origin,
            size=stated.size,
            root=stated.root.hex(),
            complete=bool(self._orders),
            beyond=self._beyond(seals, stated),
            signed_by=signed_by,
            grown_from=self._grown_from,
        )

    def _beyond(self, seals: Mapping[str, bytes], stated: Checkpoint) -> int:
        """Entries that are not covered, by this export alone."""
        every = sum(map(len, seals.values())) // SEAL_BYTES
        shown = stated.size if self._orders else sum(proof["seq"] for _, proof in self._proofs)
        return max(0, every - shown)

    def _absent(self, promised: dict[str, int] | None) -> Iterator[Finding]:
        """Log lines that should be there."""
        if self._note is not None:
            return
        if promised is not None:
            yield Finding(0, "truncated", "the export ends before its checkpoint")
        elif self._asked.keys or self._asked.older is not None:
            yield Finding(0, "unsigned", "the export has no checkpoint to check")

    def _signatures(self, line: int, note: str) -> tuple[tuple[str, ...], list[Finding]]:
        if not self._asked.keys:
            return (), []
        try:
            _, believed = checkpoint.verify(note, self._asked.keys)
        except BadNote as error:
            return (), [Finding(line, _FLAWS[error.flaw], error.detail)]
        return tuple(str(key) for key in believed), []

    def _older(self, line: int, stated: Checkpoint) -> tuple[Checkpoint | None, list[Finding]]:
        """The older checkpoint where it can be compared by root, and what is wrong with it."""
        note = self._asked.older
        if note is None:
            return None, []
        try:
            older = checkpoint.parse(note).checkpoint
            if self._asked.keys:
                checkpoint.verify(note, self._asked.keys)
        except BadNote as error:
            detail = f"the older checkpoint: {error.detail}"
            return None, [Finding(line, _FLAWS[error.flaw], detail)]
        if older.origin != stated.origin:
            detail = f"the older checkpoint is of another log, {older.origin}"
            return None, [Finding(line, "rewritten", detail)]
        if older.size > stated.size:
            detail = (
                f"the older checkpoint saw {older.size} entries, this log has {stated.size}:"
                " an old backup was restored, or entries were taken away"
            )
            return None, [Finding(line, "rollback", detail)]
        return older, []

    def _tree(
        self, line: int, stated: Checkpoint, seals: Mapping[str, bytes], older: Checkpoint | None
    ) -> Iterator[Finding]:
        if self._orders or (stated.size == 0 and not self._proofs):
            yield from self._whole(line, stated, list(seals.values()), older)
        else:
            yield from self._heads(stated, seals)
            yield from self._unproven(line, stated, older)

    def _whole(
        self, line: int, stated: Checkpoint, chains: list[bytes], older: Checkpoint | None
    ) -> Iterator[Finding]:
        """Recompute the tree; stops at the first line that does not follow from the entries."""
        frontier, taken = merkle.Frontier(), [0] * len(chains)
        for at, order in self._orders:
            if order["from"] != frontier.size:
                yield Finding(at, "tree", f"the order of leaf {frontier.size} on is missing")
                return
            goal = older.size if older is not None else -1
            for leaf in _leaves(order["runs"], chains, taken):
                if leaf is None:
                    yield Finding(at, "tree", "the log names entries that the export has not")
                    return
                frontier.extend((leaf,))
                if frontier.size == goal:
                    yield from self._compare(at, frontier.root(), older)
            if (frontier.size, frontier.root().hex()) != (order["size"], order["root"]):
                yield Finding(at, "tree", "entries in this order do not lead to the stated root")
                return
        if (frontier.size, frontier.root()) != (stated.size, stated.root):
            yield Finding(line, "tree", "the entries do not lead to the checkpoint's root")

    def _compare(self, at: int, root: bytes, older: Checkpoint | None) -> Iterator[Finding]:
        if older is None or root == older.root:
            self._grown_from = older.size if older is not None else None
            return
        detail = f"the first {older.size} entries are not those of the older checkpoint"
        yield Finding(at, "rewritten", detail)

    def _heads(self, stated: Checkpoint, seals: Mapping[str, bytes]) -> Iterator[Finding]:
        """One proven entry stands for its chain up to there, because it seals it."""
        for line, proof in self._proofs:
            population, seq = proof["population"], proof["seq"]
            end = seq * SEAL_BYTES
            chain = seals.get(population, b"")
            if len(chain) < end:
                detail = "the proof is about an entry that the export has not"
                yield Finding(line, "proof", detail, population, seq)
                continue
            proven = proof["size"] == stated.size and merkle.verify_inclusion(
                merkle.leaf_hash(chain[end - SEAL_BYTES : end]),
                proof["index"],
                stated.size,
                [bytes.fromhex(part) for part in proof["path"]],
                stated.root,
            )
            if not proven:
                detail = f"entry {seq} is not proven to be in the log"
                yield Finding(line, "proof", detail, population, seq)

    def _unproven(
        self, line: int, stated: Checkpoint, older: Checkpoint | None
    ) -> Iterator[Finding]:
        """Without every entry, only an equal size can be compared."""
        if older is None:
            return
        if older.size == stated.size:
            yield from self._compare(line, stated.root, older)
            return
        detail = "an export of some populations cannot be held against an older checkpoint"
        yield Finding(line, "unproven", f"{detail}; ask for a consistency proof")


def _leaves(
    runs: Sequence[int], chains: Sequence[bytes], taken: list[int]
) -> Iterator[bytes | None]:
    """Leaf hashes in the order of the log; None where a run asks for more than there is."""
    for place in range(0, len(runs), 2):
        chain, count = runs[place], runs[place + 1]
        if chain >= len(chains) or taken[chain] + count * SEAL_BYTES > len(chains[chain]):
            yield None
            return
        seals, start = chains[chain], taken[chain]
        taken[chain] = end = start + count * SEAL_BYTES
        for at in range(start, end, SEAL_BYTES):
            yield merkle.leaf_hash(seals[at : at + SEAL_BYTES])


def _is_order(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and body.keys() == {"from", "root", "runs", "size"}
        and _count(body["from"])
        and _count(body["size"])
        and _hash(body["root"])
        and isinstance(body["runs"], list)
        and len(body["runs"]) % 2 == 0
        and all(_count(part) for part in body["runs"])
    )


def _is_proof(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and body.keys() == {"index", "path", "population", "seq", "size"}
        and all(_count(body[name]) for name in ("index", "seq", "size"))
        and body["seq"] >= 1
        and isinstance(body["population"], str)
        and isinstance(body["path"], list)
        and all(_hash(part) for part in body["path"])
    )


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= merkle.MAX_SIZE


def _hash(value: Any) -> bool:
    return (
        isinstance(value, str)
        and len(value) == 2 * merkle.HASH_BYTES
        and set(value) <= set("0123456789abcdef")
    )
