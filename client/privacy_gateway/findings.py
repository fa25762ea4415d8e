"""What a verification says: every kind of fault, where it was found, what the entries add up to.

The kinds are public vocabulary: `docs/howto/auditor/damage.md` explains each, and the tampered
ledgers of the tests show each. A kind must never be given a second meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from privacy_gateway.logbook import LogReport

MAX_PROBLEMS: Final = 1000

KINDS: Final = {
    # Bytes
    "empty": "there is not a single line",
    "format": "the first line names another format than this verifier reads",
    "altered": "the bytes are not the ones that were sealed",
    "number": "a float, NaN or infinity was sealed",
    "duplicate_key": "an object with the same key twice was sealed",
    "encoding": "bytes that are not canonical JSON were sealed",
    # Order
    "dropped": "entries are missing inside a chain",
    "reordered": "an entry stands behind a later one",
    "duplicated": "an entry stands a second time",
    "inserted": "two different entries claim one place",
    "truncated": "the end is missing, of a chain, of the heads or of the proofs",
    "chain": "an entry does not seal the one before it",
    "head": "a head, in the export or known from elsewhere, is not the chain's",
    # Arithmetic and rules
    "terms": "a budget's terms are not allowed ones",
    "price": "a price is not that of its mechanism",
    "balance": "a stated balance does not follow",
    "filter": "more was admitted than the budget or a quota holds",
    "unreserved": "something was charged or given back without a reservation",
    "settled": "something was charged or given back after the job's end",
    "refund": "charged rounds were given back",
    "rule": "another rule of the ledger was broken",
    # Decisions
    "undecided": "an entry names a decision that is not in the decision log",
    "decision": "a decision is not the one that its entry names, or does not allow it",
    # Log
    "tree": "the entries do not lead to the log's root",
    "proof": "a proof of inclusion does not hold",
    "consistency": "a proof of consistency does not hold",
    "signature": "a signature is forged, or the checkpoint is no signed note",
    "key": "the checkpoint is signed by another key",
    "rollback": "the log is smaller than it was",
    "rewritten": "the log does not contain what it contained",
    "unsigned": "a key was given and there is no checkpoint",
    "unproven": "this export cannot be held against the older checkpoint",
}

# After one of these the tree over the entries would only repeat what is known.
DAMAGE: Final = frozenset(
    {"altered", "number", "duplicate_key", "encoding", "dropped", "reordered", "duplicated"}
    | {"inserted", "truncated", "chain", "head"}
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault and where it is.

    Attributes:
        line: line of the export, from 1.
        population: whose chain, when known.
        seq: sequence number of the entry, when known.
        kind: one of `KINDS`.
        detail: one sentence.
        part: for `altered`, which part of the line, as far as the rest tells: `frame`, `leaf`,
            `cost`, `prev`, `hash`.
    """

    line: int
    population: str | None
    seq: int | None
    kind: str
    detail: str
    part: str | None = None


@dataclass(frozen=True, slots=True)
class PopulationReport:
    """What the entries of one population add up to. ε in nats, by the odometer.

    `spent` lists every mechanism that was charged and for how many rounds, in the form of the
    ledger; `privacy_gateway.readings` composes them.
    """

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
    spent: tuple[tuple[dict[str, object], int], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of a verification; `ok` is True only when nothing at all was found.

    `log` is None for an export without a checkpoint; `decisions` is the number of entries whose
    decision was found and matches, None where no decision log was given.
    """

    ok: bool
    lines: int
    entries: int
    mechanisms: int
    engine: str
    problems: tuple[Problem, ...]
    populations: dict[str, PopulationReport]
    log: LogReport | None = None
    decisions: int | None = None
