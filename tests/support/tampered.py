"""Every kind of damage to an export, by name, and what the verifier must say about it first.

`python -m tests.support.tampered` writes the files of `tests/assets/tampered` anew, each damage
from the honest file. Honest files once committed stay: an old export must verify for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from privacy_gateway import canonical
from tests.support.tampering import (
    FOLDER,
    OTHER,
    Lines,
    another_decision,
    cheaper,
    drop,
    flip,
    forged_proof,
    forged_root,
    honest,
    in_bytes,
    inserted,
    lines_of,
    of_rounds,
    overspent,
    resealed,
    resigned,
    rewritten,
    rolled_back,
    same,
    settled_first,
    swap,
    text_of,
    with_members,
    with_note,
)


@dataclass(frozen=True)
class Case:
    """One damage: its file, what an auditor has in hand, and what must be said first.

    `line` counts from 1; `alone` is False where one damage cannot but show in several places.
    """

    name: str
    about: str
    damage: Callable[[Lines], Lines]
    kind: str
    line: int
    population: str | None = None
    seq: int | None = None
    part: str | None = None
    base: str = "honest"
    older: str | None = None
    consistency: str | None = None
    decisions: str | None = "decisions"
    key: str = "key"
    alone: bool = True


A = "pop_a"
CASES: tuple[Case, ...] = (
    Case("empty", "not a single line", lambda _: [], "empty", 0, alone=False),
    Case("schema", "an unknown format", flip(1, b"ledger/1", 7), "format", 1),
    Case(
        "flip-frame",
        "a bit of the line's frame",
        flip(4, b'"leaf"', 1),
        "altered",
        4,
        A,
        3,
        "frame",
    ),
    Case("flip-leaf", "a bit of a member", flip(4, b"usr_r", 4), "altered", 4, A, 3, "leaf"),
    Case("flip-cost", "a bit of a cost", flip(4, b'"cost":[', 9), "altered", 4, A, 3, "cost"),
    Case("flip-hash", "a bit of a seal", flip(4, b'"hash":"', 8), "altered", 4, A, 3, "hash"),
    Case(
        "flip-prev", "a bit of the seal before", flip(4, b'"prev":"', 8), "altered", 4, A, 3, "prev"
    ),
    Case("flip-head", "a bit of a head's seal", flip(11, b'"hash":"', 8), "head", 11, A, 5),
    Case("flip-signature", "a bit of the signature", flip(14, b"example ", 20), "signature", 14),
    Case("dropped", "a row removed", drop(4), "dropped", 4, A, 3),
    Case("swapped", "two rows swapped", swap(4), "reordered", 5, A, 3),
    Case("duplicated", "a row twice", lambda x: [*x[:4], x[3], *x[4:]], "duplicated", 5, A, 3),
    Case("inserted", "a row that never was", inserted, "inserted", 5, A, 3, alone=False),
    Case("truncated-chain", "a chain's last row cut off", drop(6), "truncated", 10, A, 5),
    Case(
        "truncated-tail",
        "the file cut off after a row",
        lambda x: x[:8],
        "truncated",
        8,
        "pop_a",
        6,
        alone=False,
    ),
    Case("truncated-log", "the checkpoint cut off", lambda x: x[:-1], "truncated", 13),
    Case(
        "resealed",
        "a row rewritten and all sealed anew",
        resealed(3, with_members(at=1)),
        "tree",
        14,
    ),
    Case(
        "resealed-order",
        "the same, the order's root left",
        resealed(3, with_members(at=1), log_too=False),
        "tree",
        13,
    ),
    Case(
        "price", "half the price, sealed anew", resealed(3, cheaper), "price", 3, A, 2, alone=False
    ),
    Case("overspend", "more than the budget holds", overspent, "filter", 3, A, 2, alone=False),
    Case(
        "unreserved",
        "a charge of a job that reserved nothing",
        resealed(4, with_members(job="job_x")),
        "unreserved",
        4,
        A,
        3,
        alone=False,
    ),
    Case("settled", "a charge after the job's end", settled_first, "settled", 6, A, 5, alone=False),
    Case(
        "refund",
        "a charged round given back",
        resealed(6, of_rounds(15)),
        "refund",
        6,
        A,
        5,
        alone=False,
    ),
    Case(
        "balance",
        "a balance that does not follow",
        resealed(4, lambda leaf: leaf | {"balance": leaf["balance"] | {"charged": [0] * 16}}),
        "balance",
        4,
        A,
        3,
        alone=False,
    ),
    Case(
        "float",
        "a float, sealed",
        resealed(4, in_bytes(b'"rounds":5', b'"rounds":5.0')),
        "number",
        4,
        A,
        3,
        alone=False,
    ),
    Case(
        "nan",
        "NaN, sealed",
        resealed(4, in_bytes(b'"rounds":5', b'"rounds":NaN')),
        "number",
        4,
        A,
        3,
        alone=False,
    ),
    Case(
        "duplicate-key",
        "a key twice, sealed",
        resealed(4, in_bytes(b'"rounds":5', b'"rounds":5,"rounds":5')),
        "duplicate_key",
        4,
        A,
        3,
        alone=False,
    ),
    Case(
        "spaces",
        "white space, sealed",
        resealed(4, in_bytes(b'"rounds":5', b'"rounds": 5')),
        "encoding",
        4,
        A,
        3,
        alone=False,
    ),
    Case(
        "decision-missing",
        "a decision taken out of the decision log",
        same,
        "undecided",
        8,
        "pop_b",
        2,
        decisions="decisions-short",
        alone=False,
    ),
    Case(
        "decision-forged",
        "a verdict changed in the decision log",
        same,
        "decision",
        3,
        A,
        2,
        decisions="decisions-forged",
        alone=False,
    ),
    Case(
        "decision-mismatched",
        "an entry with another decision's digest",
        resealed(4, another_decision),
        "decision",
        4,
        A,
        3,
        alone=False,
    ),
    Case("inclusion", "a forged proof of inclusion", forged_proof, "proof", 8, A, 5, base="part"),
    Case(
        "consistency",
        "a forged proof of consistency",
        same,
        "consistency",
        9,
        base="part",
        older="early",
        consistency="growth-forged",
    ),
    Case("other-key", "a checkpoint of another key", with_note(resigned(OTHER)), "key", 14),
    Case(
        "forged-root",
        "another root under the old signature",
        with_note(forged_root),
        "signature",
        14,
        alone=False,
    ),
    Case("rollback", "a restored older backup", rolled_back, "rollback", 9, older="early"),
    Case("rewritten", "another history, truly signed", rewritten, "rewritten", 13, older="early"),
)


def beside() -> dict[str, bytes]:
    """Damaged files that are no exports, from the honest ones."""
    decisions = lines_of("decisions")
    forged = json.loads(decisions[0])
    forged["verdict"]["outcome"] = "needs_approval"
    growth = json.loads((FOLDER / "growth.json").read_bytes())
    growth["path"][0] = "0" * 64
    return {
        "decisions-short.jsonl": text_of(decisions[:1]),
        "decisions-forged.jsonl": text_of([canonical.dumps(forged), decisions[1]]),
        "growth-forged.json": canonical.dumps(growth) + b"\n",
    }


def damaged(case: Case) -> bytes:
    """Contents of a case's export, from the honest one."""
    return text_of(case.damage(lines_of(case.base)))


def main() -> None:
    """Write what is not there yet; honest files are never replaced."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in honest().items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)
    for name, data in beside().items():
        (FOLDER / name).write_bytes(data)
    for case in CASES:
        if case.damage is not same:
            (FOLDER / f"{case.name}.jsonl").write_bytes(damaged(case))


if __name__ == "__main__":
    main()
