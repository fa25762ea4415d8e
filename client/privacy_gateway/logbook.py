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
from privacy_gateway.seals import SEAL_BYTES, Seals

LINES: Final = ("order", "proof", "checkpoint")

# Seals read from the temporary file in one piece.
_AT_ONCE: Final = 4096

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
        consistency: for an export of some populations, the proof that the log grew from the
            older checkpoint, as `/v1/ledger/proofs/consistency` answers it.
    """

    keys: Sequence[Verifier] = ()
    older: str | None = None
    consistency: Mapping[str, Any] | None = None


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
        self,
        names: Sequence[str],
        seals: Seals,
        promised: dict[str, int] | None,
        *,
        intact: bool,
    ) -> tuple[list[Finding], LogReport | None]:
        """Compare the log's lines with the entries.

        Args:
            names: the chains, in the order of the head lines.
            seals: the seals of their entries.
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
        elif intact:
            findings += self._unproven(line, stated, names)
        signed_by, flaws = self._signatures(line, note)
        findings += flaws
        older, flaws = self._older(line, stated)
        findings += flaws
        if intact:
            findings += self._tree(line, stated, names, seals, older)
        return findings, LogReport(
            origin=stated.origin,
            size=stated.size,
            root=stated.root.hex(),
            complete=bool(self._orders),
            beyond=self._beyond(names, seals, stated),
            signed_by=signed_by,
            grown_from=self._grown_from,
        )

    def _beyond(self, names: Sequence[str], seals: Seals, stated: Checkpoint) -> int:
        """Entries that are not covered, by this export alone."""
        if self._orders:
            return max(0, sum(map(seals.count, names)) - stated.size)
        shown = self._shown()
        return sum(max(0, seals.count(name) - shown.get(name, 0)) for name in names)

    def _shown(self) -> dict[str, int]:
        """How far each chain's proof reaches; a second proof of a chain reaches no farther."""
        shown: dict[str, int] = {}
        for _, proof in self._proofs:
            name = proof["population"]
            shown[name] = max(proof["seq"], shown.get(name, 0))
        return shown

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
        self,
        line: int,
        stated: Checkpoint,
        names: Sequence[str],
        seals: Seals,
        older: Checkpoint | None,
    ) -> Iterator[Finding]:
        if self._orders or (stated.size == 0 and not self._proofs):
            yield from self._whole(line, stated, names, seals, older)
        else:
            yield from self._heads(stated, seals)
            yield from self._grown(line, stated, older)

    def _whole(
        self,
        line: int,
        stated: Checkpoint,
        names: Sequence[str],
        seals: Seals,
        older: Checkpoint | None,
    ) -> Iterator[Finding]:
        """Recompute the tree; stops at the first line that does not follow from the entries."""
        frontier, taken = merkle.Frontier(), dict.fromkeys(names, 0)
        goal = older.size if older is not None else -1
        for at, order in self._orders:
            if order["from"] != frontier.size:
                yield Finding(at, "tree", f"the order of leaf {frontier.size} on is missing")
                return
            for run in _runs(order["runs"], names, seals, taken):
                if run is None:
                    yield Finding(at, "tree", "the log names entries that the export has not")
                    return
                # An older checkpoint may have been signed in the middle of a run.
                here = (goal - frontier.size) * SEAL_BYTES
                if 0 < here <= len(run):
                    frontier.extend_data(run[:here])
                    yield from self._compare(at, frontier.root(), older)
                    run = run[here:]
                frontier.extend_data(run)
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

    def _heads(self, stated: Checkpoint, seals: Seals) -> Iterator[Finding]:
        """One proven entry stands for its chain up to there, because it seals it."""
        for line, proof in self._proofs:
            population, seq = proof["population"], proof["seq"]
            seal = seals.of(population, seq)
            if seal is None:
                detail = "the proof is about an entry that the export has not"
                yield Finding(line, "proof", detail, population, seq)
                continue
            proven = proof["size"] == stated.size and merkle.verify_inclusion(
                merkle.leaf_hash(seal),
                proof["index"],
                stated.size,
                [bytes.fromhex(part) for part in proof["path"]],
                stated.root,
            )
            if not proven:
                detail = f"entry {seq} is not proven to be in the log"
                yield Finding(line, "proof", detail, population, seq)

    def _unproven(self, line: int, stated: Checkpoint, names: Sequence[str]) -> Iterator[Finding]:
        """Without a proof, a chain that was never in the log would pass for one that is new."""
        shown = self._shown()
        if self._orders or not stated.size or not shown.keys() <= set(names):
            return
        for name in names:
            if name not in shown:
                detail = "no entry of this chain is proven to be in the log; is it seconds old?"
                yield Finding(line, "truncated", detail, name, 1)

    def _grown(self, line: int, stated: Checkpoint, older: Checkpoint | None) -> Iterator[Finding]:
        """Without every entry, growth is shown by an equal root or by a proof of consistency."""
        proof = self._asked.consistency
        if older is None:
            return
        if older.size == stated.size:
            yield from self._compare(line, stated.root, older)
        elif proof is None:
            detail = "an export of some populations cannot be held against an older checkpoint"
            yield Finding(line, "unproven", f"{detail}; give a proof of consistency")
        elif not _is_consistency(proof):
            yield Finding(line, "consistency", "what was given is no proof of consistency")
        elif (proof["first"], proof["second"]) != (older.size, stated.size):
            detail = f"the proof leads from {proof['first']} entries to {proof['second']}"
            wanted = f"and not from {older.size} to {stated.size}"
            yield Finding(line, "consistency", f"{detail} {wanted}")
        elif not merkle.verify_consistency(
            older.size,
            stated.size,
            older.root,
            stated.root,
            [bytes.fromhex(part) for part in proof["path"]],
        ):
            detail = f"the log is not proven to contain the {older.size} older entries"
            yield Finding(line, "consistency", detail)
        else:
            self._grown_from = older.size


def is_promise(log: Any) -> bool:
    """Whether this is what a header may say about the log."""
    return (
        isinstance(log, dict)
        and {"size"} <= log.keys() <= {"size", "proofs"}
        and all(type(count) is int and count >= 0 for count in log.values())
    )


def _runs(
    runs: Sequence[int], names: Sequence[str], seals: Seals, taken: dict[str, int]
) -> Iterator[bytes | None]:
    """Joined seals in the order of the log; None where a run asks for more than there is."""
    for place in range(0, len(runs), 2):
        chain, count = runs[place], runs[place + 1]
        if chain >= len(names) or taken[names[chain]] + count > seals.count(names[chain]):
            yield None
            return
        name = names[chain]
        start, taken[name] = taken[name], taken[name] + count
        for rank in range(start, start + count, _AT_ONCE):
            yield seals.read(name, rank, min(_AT_ONCE, start + count - rank))


def _is_consistency(proof: Any) -> bool:
    return (
        isinstance(proof, Mapping)
        and {"first", "second", "path"} <= proof.keys()
        and _count(proof["first"])
        and _count(proof["second"])
        and isinstance(proof["path"], list)
        and all(_hash(part) for part in proof["path"])
    )


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
