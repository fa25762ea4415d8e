"""A small honest ledger with its log, and what a dishonest hand can do to its export.

`tests.support.tampered` lists the damages by name.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from accounting import ledger, log, sequencer
from kit.db import Database
from policies.ask import Decision
from policies.verdict import Verdict
from privacy_gateway import canonical, chain, checkpoint, merkle
from tests.accounting.support import NOW, SOON, job_price, open_population

FOLDER = Path(__file__).parents[1] / "assets" / "tampered"
KEY = checkpoint.new_signer("privacy-gateway/example", b"k" * 32)
OTHER = checkpoint.new_signer("privacy-gateway/example", b"o" * 32)

Lines = list[bytes]
Leaf = dict[str, Any]


# -------------------------------------------------------------------------------------------------
# The honest ledger
# -------------------------------------------------------------------------------------------------
def decision_of(name: str, subject: str = "usr_r") -> tuple[dict[str, Any], dict[str, Any]]:
    """A decision as `/v1/decisions` shows it, and the facts that an entry keeps of it."""
    question = {"subject": {"id": subject}, "dataset": {"id": "dat_1"}, "job": {"rounds": 20}}
    data = canonical.dumps(question, floats=True)
    decision = Decision(
        verdict=Verdict("allow"),
        code=None,
        fault=None,
        detail="",
        input_bytes=data,
        input_digest=canonical.digest(question, floats=True),
        engine="regorus",
        engine_version="0.10.1",
        library_digest="1" * 64,
        latency_us=1,
        revision_id="pol_1",
        revision_number=1,
        revision_digest="2" * 64,
    )
    form = {
        "id": name,
        "outcome": decision.verdict.outcome,
        "code": decision.code,
        "fault": decision.fault,
        "verdict": decision.verdict.as_dict(),
        "input": question,
        "input_digest": decision.input_digest,
        "digest": decision.digest,
        "revision_digest": decision.revision_digest,
        "library_digest": decision.library_digest,
    }
    facts = {
        "actor": subject,
        "dataset": "dat_1",
        "decision_id": name,
        "decision_digest": decision.digest,
        "policy_digest": decision.revision_digest,
    }
    return form, facts


def honest() -> dict[str, bytes]:
    """Contents of the honest files by name."""
    first, facts = decision_of("dec_1")
    second, later = decision_of("dec_2")
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/ledger.db")
        database.create_all()
        with database.unit_of_work() as session:
            for name in ("pop_a", "pop_b"):
                open_population(session, name)
            _reserve(session, "job_1", "pop_a", 20, facts)
            _reserve(session, "job_2", "pop_b", 10, later)
            _charge(session, "job_1", 1, facts)
        early = _signed(database)
        with database.unit_of_work() as session:
            _charge(session, "job_1", 6, facts)
            _charge(session, "job_2", 1, later)
            for job in ("job_1", "job_2"):
                ledger.settle(session, job_id=job, reason="completed", facts={}, now=NOW)
        _signed(database)
        with database.read() as session:
            whole = list(ledger.export_lines(session))
            part = list(ledger.export_lines(session, populations=["pop_a"]))
            proof = log.consistency(session, 5, 9)
        database.close()
    growth = {"first": 5, "second": 9, "path": [node.hex() for node in proof.path]}
    return {
        "honest.jsonl": text_of(whole),
        "part.jsonl": text_of(part),
        "early.checkpoint": early.encode(),
        "growth.json": canonical.dumps(growth) + b"\n",
        "decisions.jsonl": text_of([canonical.dumps(form) for form in (first, second)]),
        "key.txt": f"{KEY.verifier}\n".encode(),
        "other-key.txt": f"{OTHER.verifier}\n".encode(),
    }


def _reserve(session: Any, job: str, population: str, rounds: int, facts: dict[str, Any]) -> None:
    ledger.reserve(
        session,
        ledger.lock(session, [population])[population],
        job_id=job,
        researcher_id="usr_r",
        price=job_price(),
        rounds=rounds,
        facts=facts,
        now=NOW,
        lease_expires_at=SOON,
    )


def _charge(session: Any, job: str, first: int, facts: dict[str, Any]) -> None:
    ledger.charge(
        session,
        job_id=job,
        round_first=first,
        rounds=5,
        attempt=1,
        fence=1,
        facts=facts,
        now=NOW,
    )


def _signed(database: Database) -> str:
    with database.unit_of_work() as session:
        sequencer.integrate(session)
        signed = sequencer.sign(session, [KEY], now=NOW)
    assert signed is not None
    return signed.note


def text_of(lines: Lines) -> bytes:
    """A file of lines."""
    return b"".join(line + b"\n" for line in lines)


def lines_of(name: str) -> Lines:
    """Lines of a committed export."""
    return (FOLDER / f"{name}.jsonl").read_bytes().splitlines()


# -------------------------------------------------------------------------------------------------
# Damage. Lines 2 to 6 are pop_a (open, reserve, charge, charge, void), 7 to 10 pop_b, then two
# heads, one order and the checkpoint.
# -------------------------------------------------------------------------------------------------
def flip(line: int, text: bytes, within: int = 0) -> Callable[[Lines], Lines]:
    """One bit of the byte `within` of the first place of `text`."""

    def damage(lines: Lines) -> Lines:
        changed = bytearray(lines[line - 1])
        changed[changed.index(text) + within] ^= 1
        return [*lines[: line - 1], bytes(changed), *lines[line:]]

    return damage


def drop(line: int) -> Callable[[Lines], Lines]:
    """Without one line."""
    return lambda lines: [*lines[: line - 1], *lines[line:]]


def put(line: int, made: Callable[[Lines], bytes]) -> Callable[[Lines], Lines]:
    """Another line in the place of one."""
    return lambda lines: [*lines[: line - 1], made(lines), *lines[line:]]


def swap(line: int) -> Callable[[Lines], Lines]:
    """A line and the next."""

    def damage(lines: Lines) -> Lines:
        first, second = lines[line - 1 : line + 1]
        return [*lines[: line - 1], second, first, *lines[line + 1 :]]

    return damage


def inserted(lines: Lines) -> Lines:
    """A note that never was, sealed in front of entry 3."""
    cut, leaf = opened(lines[3])[0], opened(lines[2])[1] | {"seq": 3}
    note = {name: leaf[name] for name in ("at", "balance", "population", "seq")}
    raw = chain.leaf_bytes(note | {"kind": "note", "reason": "inserted"})
    line = chain.write_line(chain.seal(cut.prev, raw), raw, cut.prev)
    return [*lines[:3], line, *lines[3:]]


def opened(line: bytes) -> tuple[chain.Line, Leaf]:
    """An entry's line, cut and parsed."""
    cut = chain.read_line(line)
    assert cut is not None
    return cut, json.loads(cut.leaf)


def resealed(
    line: int, change: Callable[[Leaf], Leaf | bytes], *, log_too: bool = True
) -> Callable[[Lines], Lines]:
    """A dishonest operator: one entry of pop_a rewritten, all later seals and the head with it.

    With `log_too` the tree's root is computed anew as well, and only the signature cannot be.
    """

    def damage(lines: Lines) -> Lines:
        entries, prev = list(lines), opened(lines[line - 1])[0].prev
        for place in range(line - 1, 6):
            cut, leaf = opened(lines[place])
            made = change(leaf) if place == line - 1 else cut.leaf
            raw = made if isinstance(made, bytes) else chain.leaf_bytes(made)
            sealed = chain.seal(prev, raw)
            entries[place] = chain.write_line(sealed, raw, prev)
            prev = sealed
        head = json.loads(lines[10])["head"] | {"hash": prev}
        entries[10] = canonical.dumps({"head": head})
        return relogged(entries) if log_too else entries

    return damage


def relogged(lines: Lines) -> Lines:
    """The order's root as these entries give it."""
    order = json.loads(lines[12])["order"]
    chains = [lines[1:6], lines[6:10]]
    taken, frontier = [0, 0], merkle.Frontier()
    for number, count in zip(order["runs"][::2], order["runs"][1::2], strict=True):
        for line in chains[number][taken[number] : taken[number] + count]:
            cut = chain.read_line(line)
            sealed = cut.hash if cut is not None else "0" * 64
            frontier.append(merkle.leaf_hash(bytes.fromhex(sealed)))
        taken[number] += count
    order["root"] = frontier.root().hex()
    return [*lines[:12], canonical.dumps({"order": order}), lines[13]]


def with_members(**members: Any) -> Callable[[Leaf], Leaf]:
    """A leaf with other members."""
    return lambda leaf: leaf | members


def in_bytes(old: bytes, new: bytes) -> Callable[[Leaf], bytes]:
    """The canonical bytes with one place replaced."""

    def change(leaf: Leaf) -> bytes:
        raw = chain.leaf_bytes(leaf)
        assert old in raw
        return raw.replace(old, new, 1)

    return change


def cheaper(leaf: Leaf) -> Leaf:
    """Half the price, and a cost that follows from it."""
    price = [part // 2 for part in leaf["per_round"]]
    return leaf | {"per_round": price, "cost": [part * leaf["rounds"] for part in price]}


def of_rounds(rounds: int) -> Callable[[Leaf], Leaf]:
    """As many rounds, and a cost that follows."""
    return lambda leaf: (
        leaf | {"rounds": rounds, "cost": [part * rounds for part in leaf["per_round"]]}
    )


def another_decision(leaf: Leaf) -> Leaf:
    """An entry that names the other job's decision by the first one's digest."""
    return leaf | {"facts": leaf["facts"] | {"decision_digest": "3" * 64}}


def with_note(note: Callable[[str], str]) -> Callable[[Lines], Lines]:
    """Another checkpoint at the end."""
    return lambda lines: [
        *lines[:-1],
        canonical.dumps({"checkpoint": note(json.loads(lines[-1])["checkpoint"])}),
    ]


def forged_root(note: str) -> str:
    """Another root under the old signature."""
    parsed = checkpoint.parse(note).checkpoint
    body = replace(parsed, root=merkle.leaf_hash(b"forged")).body()
    return f"{body}\n{note.split(chr(10) * 2, 1)[1]}"


def resigned(signer: checkpoint.Signer) -> Callable[[str], str]:
    """The same checkpoint, signed by another key."""
    return lambda note: checkpoint.seal(checkpoint.parse(note).checkpoint, [signer])


def forged_proof(lines: Lines) -> Lines:
    """One hash of the inclusion proof changed."""
    found = json.loads(lines[-2])
    found["proof"]["path"][0] = "0" * 64
    return [*lines[:-2], canonical.dumps(found), lines[-1]]


def rolled_back(lines: Lines) -> Lines:
    """A restored backup that went on: fewer leaves, everything consistent and truly signed."""
    order = json.loads(lines[12])["order"]
    taken, runs = 0, []
    for number, count in zip(order["runs"][::2], order["runs"][1::2], strict=True):
        if taken < 4:
            runs += [number, min(count, 4 - taken)]
            taken += min(count, 4 - taken)
    counts = [sum(runs[at + 1] for at in range(0, len(runs), 2) if runs[at] == n) for n in (0, 1)]
    chains = [lines[1 : 1 + counts[0]], lines[6 : 6 + counts[1]]]
    heads = []
    for entries in chains:
        cut, leaf = opened(entries[-1])
        head = {"hash": cut.hash, "population": leaf["population"], "seq": leaf["seq"]}
        heads.append(canonical.dumps({"head": head}))
    header = json.loads(lines[0]) | {"log": {"size": 4}}
    order |= {"runs": runs, "size": 4}
    whole = [canonical.dumps(header), *chains[0], *chains[1], *heads]
    frontier, at = merkle.Frontier(), [0, 0]
    for number, count in zip(runs[::2], runs[1::2], strict=True):
        for line in chains[number][at[number] : at[number] + count]:
            frontier.append(merkle.leaf_hash(bytes.fromhex(opened(line)[0].hash)))
        at[number] += count
    order["root"] = frontier.root().hex()
    note = checkpoint.seal(checkpoint.Checkpoint(KEY.name, 4, frontier.root()), [KEY])
    return [
        *whole,
        canonical.dumps({"order": order}),
        canonical.dumps({"checkpoint": note}),
    ]


def rewritten(lines: Lines) -> Lines:
    """Another history of the same length, signed by the log's own key."""
    changed = resealed(3, with_members(at=1))(lines)
    root = bytes.fromhex(json.loads(changed[12])["order"]["root"])
    note = checkpoint.seal(checkpoint.Checkpoint(KEY.name, 9, root), [KEY])
    return [*changed[:-1], canonical.dumps({"checkpoint": note})]


def same(lines: Lines) -> Lines:
    """Nothing: the damage is in what stands beside the export."""
    return lines


def _tiny(leaf: Leaf) -> Leaf:
    """A budget that the reservation does not fit, opened with terms that say so."""
    terms = leaf["terms"] | {"epsilon_nano": 150_000_000}
    return leaf | {"terms": terms, "balance": leaf["balance"] | {"epsilon_nano": 150_000_000}}


def overspent(lines: Lines) -> Lines:
    """A smaller budget than was spent, and balances that agree with it throughout."""
    entries, prev = list(lines), chain.GENESIS
    for place in range(1, 6):
        leaf = opened(lines[place])[1]
        leaf = _tiny(leaf) if place == 1 else leaf
        leaf["balance"]["epsilon_nano"] = 150_000_000
        raw = chain.leaf_bytes(leaf)
        sealed = chain.seal(prev, raw)
        entries[place] = chain.write_line(sealed, raw, prev)
        prev = sealed
    head = json.loads(lines[10])["head"] | {"hash": prev}
    entries[10] = canonical.dumps({"head": head})
    return relogged(entries)


def settled_first(lines: Lines) -> Lines:
    """The job's end brought forward, before its second charge."""
    entries, prev = list(lines), opened(lines[4])[0].prev
    charge, void = opened(lines[4])[1], opened(lines[5])[1]
    before = opened(lines[3])[1]["balance"]
    void |= {
        "seq": 4,
        "rounds": 15,
        "rounds_charged": 5,
        "cost": [part * 15 for part in void["per_round"]],
        "balance": before | {"reserved": [0] * 16},
    }
    for place, leaf in ((4, void), (5, charge | {"seq": 5})):
        raw = chain.leaf_bytes(leaf)
        sealed = chain.seal(prev, raw)
        entries[place] = chain.write_line(sealed, raw, prev)
        prev = sealed
    head = json.loads(lines[10])["head"] | {"hash": prev}
    entries[10] = canonical.dumps({"head": head})
    return relogged(entries)
