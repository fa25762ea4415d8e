"""Offline verification of a ledger export: no server, no numpy, no TensorFlow.

Four questions, each answered with the place of the damage: is every byte what was sealed (chain,
sequence, heads); is every price what the mechanism costs (by the engine that did not charge); was
every admission within the limits (filter replayed at every prefix, reservations included); and did
a policy allow it (`privacy_gateway.decisions`, where a decision log is given). It must never repair
and never stop at the first fault.

A truncated tail is only visible against a head that is known from elsewhere: the export ends with
one head line per population, and `expect_heads` adds heads written down earlier. Behind the heads
stands the log with its signed checkpoint (`privacy_gateway.logbook`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, TypeGuard

from privacy_gateway import chain, rdp
from privacy_gateway.decisions import Decisions
from privacy_gateway.findings import (
    DAMAGE,
    KINDS,
    MAX_PROBLEMS,
    PopulationReport,
    Problem,
    Report,
)
from privacy_gateway.links import Chain
from privacy_gateway.logbook import LINES, Asked, Logbook, LogReport, is_promise
from privacy_gateway.prices import Prices
from privacy_gateway.replay import Population
from privacy_gateway.seals import Seals
from privacy_gateway.shapes import NotCanonical, Shapes

__all__ = ["DAMAGE", "KINDS", "MAX_PROBLEMS", "PopulationReport", "Problem", "Report", "verify"]

_LOG_LINES: Final = tuple(b'{"%s":' % kind.encode() for kind in LINES)
# What does not make the balances behind it underivable.
_HARMLESS: Final = frozenset({"price", "filter"})


def verify(
    lines: Iterable[bytes],
    *,
    expect_heads: Iterable[tuple[str, int, str]] = (),
    asked: Asked | None = None,
    decisions: Iterable[bytes] | None = None,
) -> Report:
    """Verify an export.

    Memory grows with populations, jobs and decisions; of an entry only its seal is kept, beyond
    16 MiB in a temporary file.

    Args:
        lines: the export's lines, with or without line ends; a binary file will do.
        expect_heads: (population, seq, hash), known from elsewhere (a witness, a receipt, an
            earlier export), any number of them. The export must contain exactly those entries.
        asked: keys of the log and an older checkpoint. Without keys the tree is recomputed and
            compared with the checkpoint, but nobody vouches for the checkpoint.
        decisions: the decision log as JSON lines, to match with the entries; None to leave that.

    Returns:
        What was found, in the order of the lines. An export without any line is not `ok`.
    """
    log = None if decisions is None else Decisions(decisions)
    with Seals() as seals:
        reader = _Reader(expect_heads, asked or Asked(), log, seals)
        for line in lines:
            reader.read(line.rstrip(b"\n"))
        return reader.finish()


class _Reader:
    """One pass over the lines."""

    def __init__(
        self,
        expect_heads: Iterable[tuple[str, int, str]],
        asked: Asked,
        decisions: Decisions | None,
        seals: Seals,
    ) -> None:
        self._expected: dict[str, dict[int, set[str]]] = {}
        for name, seq, sealed in expect_heads:
            self._expected.setdefault(name, {}).setdefault(seq, set()).add(sealed)
        self._shapes = Shapes()
        self._prices = Prices()
        self._decisions = decisions
        self._seals = seals
        self._chains: dict[str, Chain] = {}
        self._problems: list[Problem] = []
        self._line = 0
        self._last: str | None = None
        self._unreadable = 0
        self._doubt: tuple[int, str, str] | None = None
        self._promised: int | None = None
        self._logbook = Logbook(asked)
        self._log_promised: dict[str, int] | None = None
        self._heads: list[str] = []
        self._intact = True

    def read(self, line: bytes) -> None:
        """Take one line."""
        self._line += 1
        if self._line == 1:
            self._read_header(line)
        elif line.startswith(b'{"head":'):
            self._read_head(line)
        elif line.startswith(_LOG_LINES):
            if not self._logbook.read(self._line, self._canonical(line)):
                self._found(None, "altered", "the line cannot be read as one of the log")
        else:
            self._read_entry(line)

    def finish(self) -> Report:
        """Close every chain and put the findings in order."""
        if not self._line:
            self._found(None, "empty", "the export has no line; the least one has a header")
        for name, found in self._chains.items():
            self._close(name, found)
        self._check_count()
        for name in self._expected:
            if name not in self._chains:
                self._found(None, "truncated", "an expected population is absent", name)
        for number in self._decisions.unreadable if self._decisions else ():
            detail = f"line {number} of the decision log is no decision"
            self._found(None, "decision", detail, line=0)
        log = self._judge_log()
        problems = sorted(self._problems, key=lambda problem: problem.line)
        return Report(
            ok=not problems,
            lines=self._line,
            entries=sum(found.entries for found in self._chains.values()),
            mechanisms=self._prices.mechanisms,
            engine=rdp.ENGINE,
            problems=tuple(problems),
            populations={name: _summary(name, found) for name, found in self._chains.items()},
            log=log,
            decisions=self._decisions.matched if self._decisions else None,
        )

    def _judge_log(self) -> LogReport | None:
        """What stands behind the heads, against every entry that was read."""
        findings, log = self._logbook.judge(
            self._heads, self._seals, self._log_promised, intact=self._intact
        )
        for line, kind, detail, population, seq in findings:
            self._found(seq, kind, detail, population, line or None)
        return log

    def _canonical(self, data: bytes) -> Any:
        """Parsed JSON if these are its canonical bytes, else None."""
        try:
            return self._shapes.read(data)
        except NotCanonical:
            return None

    def _read_header(self, line: bytes) -> None:
        header = self._canonical(line)
        promised = header.get("populations") if isinstance(header, dict) else None
        log = header.pop("log", None) if isinstance(header, dict) else None
        if (
            type(promised) is int
            and header == {"format": chain.FORMAT, "populations": promised}
            and (log is None or is_promise(log))
        ):
            self._promised, self._log_promised = promised, log
        elif isinstance(header, dict) and chain.is_other_format(header.get("format")):
            self._log_promised = log if is_promise(log) else None
            detail = f"the format is {header['format'][:80]}; this verifier reads {chain.FORMAT}"
            self._found(None, "format", detail)
        else:
            self._found(None, "altered", f"the first line must name the format {chain.FORMAT}")

    def _read_entry(self, line: bytes) -> None:
        cut = chain.read_line(line)
        if cut is None:
            self._damaged("the line cannot be read as an entry", part="frame")
            return
        if chain.seal(cut.prev, cut.leaf) != cut.hash:
            self._altered(cut)
            return
        try:
            leaf = self._shapes.read(cut.leaf)
        except NotCanonical as flaw:
            self._damaged(f"what was sealed is no entry: {flaw.detail}", flaw.flaw)
            return
        if _identified(leaf):
            self._place(cut, leaf)
        else:
            self._damaged("what was sealed names no population and place")

    def _place(self, cut: chain.Line, leaf: dict[str, Any]) -> None:
        """Put a sealed entry into its chain."""
        name, seq = leaf["population"], leaf["seq"]
        found = self._chains.get(name) or self._chain(name)
        unreadable = 0
        if self._unreadable or name != self._last:
            unreadable = self._spread_unreadable(found, name, seq)
            self._settle_doubt(cut.prev)
        if seq == found.expected or self._in_place(found, seq, unreadable, cut.hash):
            if found.hash is not None and found.hash != cut.prev:
                self._found(seq, "chain", "the entry does not seal the one before it", name)
                found.replaying = False
            found.hash = cut.hash
            self._seals.add(name, seq, bytes.fromhex(cut.hash))
            found.expected = seq + 1
            self._replay(found, name, leaf)
        found.entries += 1
        if self._expected:
            self._check_expected_head(found, name, seq, cut.hash)

    def _chain(self, name: str) -> Chain:
        """State of a population's chain, made at its first line."""
        if name not in self._chains:
            self._chains[name] = Chain(name, Population(self._prices))
        return self._chains[name]

    def _spread_unreadable(self, found: Chain, name: str, seq: int) -> int:
        """How many unreadable lines stood for entries just before this one.

        The others, at a change of population, were the tail of the chain before.
        """
        here = min(max(seq - found.expected, 0), self._unreadable)
        before = self._chains.get(self._last or "")
        if before is not None and self._last != name:
            before.lost += self._unreadable - here
        self._last, self._unreadable = name, 0
        return here

    def _in_place(self, found: Chain, seq: int, unreadable: int, sealed: str) -> bool:
        """Whether an entry with another number than expected comes in order; or what it is."""
        if seq > found.expected:
            found.skip(seq, unreadable, self._line)
            return True
        name, before = found.name, self._seals.of(found.name, seq)
        if found.found_late(seq):
            self._found(seq, "reordered", f"entry {seq} stands after {found.expected - 1}", name)
        elif before is not None and before.hex() != sealed:
            self._found(seq, "inserted", f"another entry {seq} stands here than before", name)
        else:
            self._found(seq, "duplicated", f"entry {seq} stands here a second time", name)
        found.replaying = False
        return False

    def _replay(self, found: Chain, name: str, leaf: dict[str, Any]) -> None:
        """After the first damage to a chain its balances cannot be derived any more."""
        if self._decisions is not None:
            self._match(leaf, name)
        if not found.replaying:
            return
        for kind, detail in found.replay.apply(leaf):
            self._found(leaf["seq"], kind, detail, name)
            if kind not in _HARMLESS:
                found.replaying = False

    def _match(self, leaf: dict[str, Any], name: str) -> None:
        """Hold the entry against its decision."""
        try:
            findings = list(self._decisions.findings(leaf)) if self._decisions else []
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            findings = [("rule", "a member is missing or of the wrong type")]
        for kind, detail in findings:
            self._found(leaf["seq"], kind, detail, name)

    def _altered(self, cut: chain.Line) -> None:
        """Say which part of a line was damaged, as far as the line and its neighbours tell."""
        detail = "the entry's bytes are not the ones that were sealed"
        found = self._chains.get(self._last or "")
        before = found.hash if found is not None and not self._unreadable else None
        if before not in (None, cut.prev) and chain.seal(before or "", cut.leaf) == cut.hash:
            self._damaged(detail, part="prev")
            return
        leaf = self._canonical(cut.leaf)
        if not _identified(leaf):
            self._damaged(detail, part="leaf")
        elif not self._prices.adds_up(leaf):
            self._damaged(detail, part="cost")
        else:
            self._damaged(detail)
            if len(self._problems) < MAX_PROBLEMS:
                self._doubt = (len(self._problems) - 1, cut.hash, chain.seal(cut.prev, cut.leaf))

    def _settle_doubt(self, prev: str) -> None:
        """The next link names the seal as it was: was the leaf altered, or its hash?"""
        if self._doubt is None:
            return
        place, stated, computed = self._doubt
        part = {stated: "leaf", computed: "hash"}.get(prev)
        self._problems[place] = replace(self._problems[place], part=part)
        self._doubt = None

    def _damaged(self, detail: str, kind: str = "altered", part: str | None = None) -> None:
        """An unreadable line stands for exactly one entry of the chain it stands in."""
        found = self._chains.get(self._last or "")
        seq = found.expected + self._unreadable if found is not None else None
        self._unreadable += 1
        self._doubt = None
        self._found(seq, kind, detail, self._last, part=part)

    def _read_head(self, line: bytes) -> None:
        parsed = self._canonical(line)
        head = parsed.get("head") if isinstance(parsed, dict) else None
        if not (isinstance(head, dict) and _identified(head) and isinstance(head.get("hash"), str)):
            self._found(None, "altered", "the line cannot be read as a head")
            return
        name = head["population"]
        found = self._chain(name)
        if name == self._last:
            self._settle_doubt(head["hash"])
        if found.head is None:
            self._heads.append(name)
        found.head, found.head_line = (head["seq"], head["hash"]), self._line

    def _close(self, name: str, found: Chain) -> None:
        """Compare a chain with its head, then report what never came."""
        if found.head is None:
            self._found(found.expected, "truncated", "the export has no head for this chain", name)
        else:
            self._check_head(name, found, *found.head)
        for gap in found.gaps:
            absent = f"entry {gap.first} is missing"
            if gap.last > gap.first:
                absent = f"entries {gap.first} to {gap.last} are missing"
            self._found(gap.first, "dropped", absent, name, gap.line)
        for seq in sorted(self._expected.get(name, {}).keys() - found.met):
            detail = f"the expected entry {seq} is absent"
            self._found(found.expected, "truncated", detail, name)

    def _check_head(self, name: str, found: Chain, seq: int, sealed: str) -> None:
        last = found.expected - 1
        lost = found.lost + (self._unreadable if name == self._last else 0)
        if seq > last + lost:
            detail = f"entries {last + lost + 1} to {seq} are missing at the end"
            self._found(last + lost + 1, "truncated", detail, name, found.head_line)
        elif seq < last:
            detail = f"the head names entry {seq}, the chain has {last}"
            self._found(seq, "head", detail, name, found.head_line)
        elif not lost and found.hash is not None and found.hash != sealed:
            detail = "the head's hash is not the last entry's"
            self._found(seq, "head", detail, name, found.head_line)

    def _check_expected_head(self, found: Chain, name: str, seq: int, sealed: str) -> None:
        expected = self._expected.get(name, {}).get(seq)
        if expected is None:
            return
        found.met.add(seq)
        if expected != {sealed}:
            self._found(seq, "head", "history differs from the expected head", name)

    def _check_count(self) -> None:
        """A chain whose every line is gone leaves only the header's count behind."""
        if self._promised is not None and self._promised != len(self._chains):
            detail = f"{self._promised} populations announced, {len(self._chains)} found"
            self._found(None, "truncated", detail)

    def _found(
        self,
        seq: int | None,
        kind: str,
        detail: str,
        population: str | None = None,
        line: int | None = None,
        part: str | None = None,
    ) -> None:
        self._intact = self._intact and kind not in DAMAGE
        if len(self._problems) < MAX_PROBLEMS:
            at = self._line if line is None else line
            self._problems.append(Problem(at, population, seq, kind, detail, part))


def _identified(leaf: Any) -> TypeGuard[dict[str, Any]]:
    """Whether the parsed text says which chain and place it belongs to."""
    return (
        isinstance(leaf, dict)
        and isinstance(leaf.get("population"), str)
        and type(leaf.get("seq")) is int
        and leaf["seq"] >= 1
    )


def _summary(name: str, found: Chain) -> PopulationReport:
    replay = found.replay
    return PopulationReport(
        population=name,
        name=replay.name,
        entries=found.entries,
        head_seq=found.expected - 1,
        head_hash=found.hash or "",
        epsilon=replay.epsilon_nano / rdp.NANO,
        delta=replay.delta,
        epsilon_spent=replay.epsilon_spent,
        epsilon_committed=replay.epsilon_committed,
        rounds_charged=replay.rounds_charged,
        jobs=len(replay.jobs),
        frozen=replay.frozen,
        spent=tuple(replay.spent.values()),
    )
