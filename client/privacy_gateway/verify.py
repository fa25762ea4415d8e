"""Offline verification of a ledger export: no server, no numpy, no TensorFlow.

Three questions, each answered with the place of the damage: is every byte what was sealed (chain,
sequence, heads); is every price what the mechanism costs (by the engine that did not charge); was
every admission within the limits (filter replayed at every prefix, reservations included). It
must never repair and never stop at the first fault.

A truncated tail is only visible against a head that is known from elsewhere: the export ends with
one head line per population, and `expect_heads` adds heads written down earlier. Behind the heads
stands the log with its signed checkpoint (`privacy_gateway.logbook`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from privacy_gateway import canonical, chain, rdp
from privacy_gateway.logbook import KINDS, Asked, Logbook, LogReport
from privacy_gateway.replay import Population, Prices

MAX_PROBLEMS: Final = 1000
DAMAGE: Final = frozenset(
    {"altered", "dropped", "reordered", "duplicated", "truncated", "chain", "head"}
)

_LOG_LINES: Final = tuple(b'{"%s":' % kind.encode() for kind in KINDS)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault and where it is.

    Attributes:
        line: line of the export, from 1.
        population: whose chain, when known.
        seq: sequence number of the entry, when known.
        kind: altered, dropped, reordered, duplicated, truncated, chain, head, terms, price, rule,
            balance, or filter; of the log: tree, proof, signature (forged), key (of another log),
            rollback (older than a checkpoint known from earlier), rewritten, unsigned, unproven.
        detail: one sentence.
    """

    line: int
    population: str | None
    seq: int | None
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class PopulationReport:
    """What the entries of one population add up to. ε in nats, by the odometer."""

    population: str
    name: str
    entries: int
    head_seq: int
    head_hash: str
    epsilon: float
    delta: str
    epsilon_spent: float
    epsilon_committed: float
    rounds_charged: int
    jobs: int
    frozen: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of a verification; `ok` is True only when nothing at all was found.

    `log` is None for an export without a checkpoint.
    """

    ok: bool
    lines: int
    entries: int
    mechanisms: int
    engine: str
    problems: tuple[Problem, ...]
    populations: dict[str, PopulationReport]
    log: LogReport | None = None


@dataclass(slots=True)
class _Chain:
    """What is known of one population's chain while reading."""

    replay: Population
    expected: int = 1
    hash: str | None = chain.GENESIS
    entries: int = 0
    replaying: bool = True
    missing: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    head: tuple[int, str] | None = None
    head_line: int = 0
    met: set[int] = field(default_factory=set)
    seals: bytearray = field(default_factory=bytearray)


def verify(
    lines: Iterable[bytes],
    *,
    expect_heads: Iterable[tuple[str, int, str]] = (),
    asked: Asked | None = None,
) -> Report:
    """Verify an export.

    Args:
        lines: the export's lines, with or without line ends; a binary file will do.
        expect_heads: (population, seq, hash), known from elsewhere (a witness, a receipt, an
            earlier export), any number of them. The export must contain exactly those entries.
        asked: keys of the log and an older checkpoint. Without keys the tree is recomputed and
            compared with the checkpoint, but nobody vouches for the checkpoint.

    Returns:
        What was found, in the order of the lines.
    """
    reader = _Reader(expect_heads, asked or Asked())
    for line in lines:
        reader.read(line.rstrip(b"\n"))
    return reader.finish()


class _Reader:
    """One pass over the lines; memory grows with populations and jobs, not with entries."""

    def __init__(self, expect_heads: Iterable[tuple[str, int, str]], asked: Asked) -> None:
        self._expected: dict[str, dict[int, set[str]]] = {}
        for name, seq, sealed in expect_heads:
            self._expected.setdefault(name, {}).setdefault(seq, set()).add(sealed)
        self._prices = Prices()
        self._chains: dict[str, _Chain] = {}
        self._problems: list[Problem] = []
        self._line = 0
        self._last: str | None = None
        self._unreadable = 0
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
            if not self._logbook.read(self._line, _canonical(line)):
                self._found(None, "altered", "the line cannot be read as one of the log")
        else:
            self._read_entry(line)

    def finish(self) -> Report:
        """Close every chain and put the findings in order."""
        for name, found in self._chains.items():
            self._close(name, found)
        self._check_count()
        for name in self._expected:
            if name not in self._chains:
                self._found(None, "truncated", "an expected population is absent", name)
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
        )

    def _judge_log(self) -> LogReport | None:
        """What stands behind the heads, against every entry that was read."""
        seals = {name: bytes(self._chains[name].seals) for name in self._heads}
        findings, log = self._logbook.judge(seals, self._log_promised, intact=self._intact)
        for line, kind, detail, population, seq in findings:
            self._found(seq, kind, detail, population, line or None)
        return log

    def _read_header(self, line: bytes) -> None:
        header = _canonical(line)
        promised = header.get("populations") if isinstance(header, dict) else None
        log = header.pop("log", None) if isinstance(header, dict) else None
        if (
            type(promised) is not int
            or header != {"format": chain.FORMAT, "populations": promised}
            or not (log is None or _is_promise(log))
        ):
            self._found(None, "altered", f"the first line must name the format {chain.FORMAT}")
            return
        self._promised, self._log_promised = promised, log

    def _read_entry(self, line: bytes) -> None:
        cut = chain.read_line(line)
        leaf = _canonical(cut.leaf) if cut is not None else None
        if cut is None or not _identified(leaf):
            self._damaged("the line cannot be read as an entry")
            return
        if chain.seal(cut.prev, cut.leaf) != cut.hash:
            self._damaged("the entry's bytes are not the ones that were sealed")
            return
        name, seq = leaf["population"], leaf["seq"]
        found = self._chain(name)
        unreadable = self._spread_unreadable(found, name, seq)
        if self._in_place(found, name, seq, unreadable):
            if found.hash is not None and found.hash != cut.prev:
                self._found(seq, "chain", "the entry does not seal the one before it", name)
                found.replaying = False
            found.hash = cut.hash
            found.seals += bytes.fromhex(cut.hash)
            found.expected = seq + 1
            self._replay(found, name, leaf)
        found.entries += 1
        self._check_expected_head(found, name, seq, cut.hash)

    def _chain(self, name: str) -> _Chain:
        """State of a population's chain, made at its first line."""
        if name not in self._chains:
            self._chains[name] = _Chain(Population(self._prices))
        return self._chains[name]

    def _spread_unreadable(self, found: _Chain, name: str, seq: int) -> int:
        """How many unreadable lines stood for entries just before this one.

        The others, at a change of population, were the tail of the chain before.
        """
        here = min(max(seq - found.expected, 0), self._unreadable)
        before = self._chains.get(self._last or "")
        if before is not None and self._last != name:
            before.lost += self._unreadable - here
        self._last, self._unreadable = name, 0
        return here

    def _in_place(self, found: _Chain, name: str, seq: int, unreadable: int) -> bool:
        """Whether the entry comes in order; gaps and late entries are noted."""
        if seq == found.expected:
            return True
        if seq > found.expected:
            for absent in range(found.expected + unreadable, seq):
                found.missing[absent] = self._line
            found.hash, found.replaying = None, False
            return True
        if found.missing.pop(seq, None) is not None:
            self._found(seq, "reordered", f"entry {seq} stands after {found.expected - 1}", name)
        else:
            self._found(seq, "duplicated", f"entry {seq} stands here a second time", name)
        found.replaying = False
        return False

    def _replay(self, found: _Chain, name: str, leaf: dict[str, Any]) -> None:
        """After the first damage to a chain its balances cannot be derived any more."""
        if not found.replaying:
            return
        findings = found.replay.apply(leaf)
        for kind, detail in findings:
            self._found(leaf["seq"], kind, detail, name)
        if any(kind not in ("price", "filter") for kind, _ in findings):
            found.replaying = False

    def _damaged(self, detail: str) -> None:
        """An unreadable line stands for exactly one entry of the chain it stands in."""
        found = self._chains.get(self._last or "")
        seq = found.expected + self._unreadable if found is not None else None
        self._unreadable += 1
        self._found(seq, "altered", detail, self._last)

    def _read_head(self, line: bytes) -> None:
        parsed = _canonical(line)
        head = parsed.get("head") if isinstance(parsed, dict) else None
        if not (isinstance(head, dict) and _identified(head) and isinstance(head.get("hash"), str)):
            self._found(None, "altered", "the line cannot be read as a head")
            return
        name = head["population"]
        found = self._chain(name)
        if found.head is None:
            self._heads.append(name)
        found.head, found.head_line = (head["seq"], head["hash"]), self._line

    def _close(self, name: str, found: _Chain) -> None:
        """Compare a chain with its head, then report what never came."""
        if found.head is None:
            self._found(found.expected, "truncated", "the export has no head for this chain", name)
        else:
            self._check_head(name, found, *found.head)
        for absent, line in found.missing.items():
            self._found(absent, "dropped", f"entry {absent} is missing", name, line)
        for seq in sorted(self._expected.get(name, {}).keys() - found.met):
            detail = f"the expected entry {seq} is absent"
            self._found(found.expected, "truncated", detail, name)

    def _check_head(self, name: str, found: _Chain, seq: int, sealed: str) -> None:
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

    def _check_expected_head(self, found: _Chain, name: str, seq: int, sealed: str) -> None:
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
    ) -> None:
        self._intact = self._intact and kind not in DAMAGE
        if len(self._problems) < MAX_PROBLEMS:
            at = self._line if line is None else line
            self._problems.append(Problem(at, population, seq, kind, detail))


def _is_promise(log: Any) -> bool:
    """What a header may say about the log."""
    return (
        isinstance(log, dict)
        and {"size"} <= log.keys() <= {"size", "proofs"}
        and all(type(count) is int and count >= 0 for count in log.values())
    )


def _canonical(data: bytes) -> Any:
    """Parsed JSON if these are its canonical bytes, else None."""
    try:
        value = _DECODE(data.decode())
        return value if canonical.dumps(value, floats=True) == data else None
    except (ValueError, TypeError, RecursionError):
        return None


def _refuse_float(text: str) -> float:
    """The parser meets every float, so the value need not be walked for one again."""
    raise ValueError(f"a leaf holds no floats, but {text[:40]}")


_DECODE: Final = json.JSONDecoder(parse_float=_refuse_float).decode


def _identified(leaf: Any) -> TypeGuard[dict[str, Any]]:
    """Whether the parsed text says which chain and place it belongs to."""
    return (
        isinstance(leaf, dict)
        and isinstance(leaf.get("population"), str)
        and type(leaf.get("seq")) is int
        and leaf["seq"] >= 1
    )


def _summary(name: str, found: _Chain) -> PopulationReport:
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
    )
