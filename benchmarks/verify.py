"""How fast does an auditor's laptop verify a ledger, beside what cannot be left out?"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accounting import curve
from accounting.plan import TrainingPlan
from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Sizes, alternate
from privacy_gateway import canonical, chain, checkpoint, merkle, rdp
from privacy_gateway.verify import verify

ROUNDS, BLOCK, KINDS = 100, 5, 8
LEAVES_A_LINE = 4096
AT = 1_795_313_577_774_129
EPSILON_NANO, DELTA = 100 * rdp.NANO, "1e-06"

Leaf = dict[str, Any]

_CHILD = """
import json, sys, time
from pathlib import Path
from privacy_gateway.verify import verify
started = time.perf_counter(), time.process_time()
with open(sys.argv[1], "rb") as lines:
    report = verify(lines)
seconds = time.perf_counter() - started[0], time.process_time() - started[1]
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0])
print(json.dumps([report.ok, report.entries, *seconds, peak]))
"""


def ask(sizes: Sizes) -> Iterator[Table]:
    """One export, verified and merely read; then whole files by a process of their own."""
    lines = list(export_of(2_000 if sizes.quick else 10_000))
    table = Table(
        "verify",
        "an export, offline, in one process without any extension",
        ("what", "entries", "seconds", "entries/s", "to parsing"),
    )
    acts = {
        "SHA-256 and JSON parsing alone": lambda: _parse(lines),
        "verify: chain, prices, filter, balances, tree": lambda: _verify(lines),
    }
    taken = alternate(acts, runs=sizes.runs)
    first = next(iter(taken.values())).median
    for what, found in taken.items():
        count = len(lines)
        table.add(what, count, found.median, count / found.median, first / found.median)
    table.notes.append(
        f"one population, {KINDS} mechanisms, jobs of {ROUNDS} rounds charged {BLOCK} at a time"
    )
    yield table
    yield _files(sizes)


def _files(sizes: Sizes) -> Table:
    """Whole exports from the disk, with what they take of memory."""
    table = Table(
        "verify-files",
        "`verify` on files, each in a process of its own",
        ("entries", "MB", "seconds", "of the processor", "entries/s", "peak MiB", "target"),
    )
    wanted = {10_000: "", 100_000: "≤ 10 s", 1_000_000: "≤ 60 s"}
    if not sizes.full:
        wanted.pop(1_000_000)
    if sizes.quick:
        wanted.pop(100_000)
    for entries, target in wanted.items():
        with markets.scratch() as folder:
            path = folder / "ledger.jsonl"
            with path.open("wb") as file:
                file.writelines(line + b"\n" for line in export_of(entries))
            size = path.stat().st_size / 1e6
            count, wall, processor, peak = _in_child(path)
        table.add(count, size, wall, processor, count / wall, peak / 1024, target)
    return table


def _in_child(path: Path) -> tuple[int, float, float, int]:
    """Entries, seconds, processor seconds and peak KiB of one verification.

    Raises:
        RuntimeError: something was found, so the figures mean nothing.
    """
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path)], capture_output=True, check=True, text=True
    )
    ok, entries, wall, processor, peak = json.loads(ran.stdout)
    if not ok:
        raise RuntimeError("the export does not verify")
    return entries, wall, processor, peak


def _parse(lines: list[bytes]) -> None:
    for line in lines:
        hashlib.sha256(line).digest()
        json.loads(line)


def _verify(lines: list[bytes]) -> None:
    """Verify an export that is whole.

    Raises:
        RuntimeError: something was found, so the figures mean nothing.
    """
    report = verify(lines)
    if not report.ok:
        raise RuntimeError(str(report.problems[0]))


def export_of(entries: int) -> Iterator[bytes]:
    """A ledger's export with its log, written without a database: a million take a minute."""
    frontier, prev, orders = merkle.Frontier(), chain.GENESIS, []
    yield canonical.dumps({"format": chain.FORMAT, "log": {"size": entries}, "populations": 1})
    for seq, leaf in enumerate(_leaves(entries), 1):
        raw = chain.leaf_bytes(leaf | {"at": AT + seq, "population": "pop_bench", "seq": seq})
        sealed = chain.seal(prev, raw)
        yield chain.write_line(sealed, raw, prev)
        prev = sealed
        frontier.append(merkle.leaf_hash(bytes.fromhex(sealed)))
        if seq % LEAVES_A_LINE == 0 or seq == entries:
            start = (seq - 1) // LEAVES_A_LINE * LEAVES_A_LINE
            root = frontier.root().hex()
            orders.append({"from": start, "root": root, "runs": [0, seq - start], "size": seq})
    yield canonical.dumps({"head": {"hash": prev, "population": "pop_bench", "seq": entries}})
    for order in orders:
        yield canonical.dumps({"order": order})
    signer = checkpoint.new_signer("privacy-gateway/bench")
    signed = checkpoint.Checkpoint(signer.name, entries, frontier.root())
    yield canonical.dumps({"checkpoint": checkpoint.seal(signed, [signer])})


def _leaves(entries: int) -> Iterator[Leaf]:
    """Opening, then job after job: reserved, charged block by block, settled; cut at the end."""
    charged, reserved = [0] * len(rdp.ORDERS), [0] * len(rdp.ORDERS)
    yield _balanced(
        {
            "clients": 100_000,
            "kind": "open",
            "name": "bench",
            "terms": {
                "delta": DELTA,
                "epsilon_nano": EPSILON_NANO,
                "orders": [f"{order:g}" for order in rdp.ORDERS],
                "weights": list(rdp.default_weights(EPSILON_NANO, DELTA)),
            },
        },
        charged=charged,
        reserved=reserved,
    )
    made = 1
    for job in _jobs():
        for kind, rounds, extra in _life():
            if made == entries:
                return
            cost = [part * rounds for part in job["per_round"]]
            if kind == "reserve":
                reserved = [a + b for a, b in zip(reserved, cost, strict=True)]
            else:
                reserved = [a - b for a, b in zip(reserved, cost, strict=True)]
            if kind == "charge":
                charged = [a + b for a, b in zip(charged, cost, strict=True)]
            leaf = job | extra | {"kind": kind, "rounds": rounds, "cost": cost}
            yield _balanced(leaf, charged=charged, reserved=reserved)
            made += 1


def _life() -> Iterator[tuple[str, int, Leaf]]:
    """Kind, rounds and own members of a job's entries."""
    yield "reserve", ROUNDS, {}
    for first in range(1, ROUNDS + 1, BLOCK):
        yield "charge", BLOCK, {"attempt": 1, "fence": 1, "round_first": first}
    yield "void", 0, {"reason": "completed", "rounds_charged": ROUNDS}


def _jobs() -> Iterator[Leaf]:
    """What all entries of a job have in common; so cheap that a budget holds a million."""
    prices = [
        curve.price(TrainingPlan(100_000, 1_000, 1, 20.0 + kind).mechanism) for kind in range(KINDS)
    ]
    number = 0
    while True:
        price = prices[number % KINDS]
        form = price.mechanism.canonical()
        yield {
            "actor": f"usr_{number % 16:026d}",
            "engine": "dp-accounting 0.6.0",
            "event": rdp.event_text(form),
            "facts": {
                "actor": f"usr_{number % 16:026d}",
                "dataset": f"dat_{1:026d}",
                "dataset_digest": "1" * 64,
                "dataset_version": 1,
                "decision_digest": "2" * 64,
                "decision_id": f"dec_{number:026d}",
                "policy_digest": "3" * 64,
                "policy_engine": "regorus 0.10.1",
                "policy_revision": 1,
                "request_digest": "4" * 64,
            },
            "job": f"job_{number:026d}",
            "mechanism": form,
            "mechanism_digest": price.mechanism_digest,
            "per_round": list(price.per_round),
            "researcher": f"usr_{number % 16:026d}",
        }
        number += 1


def _balanced(leaf: Leaf, *, charged: list[int], reserved: list[int]) -> Leaf:
    return leaf | {
        "balance": {
            "charged": charged,
            "epsilon_nano": EPSILON_NANO,
            "frozen": False,
            "reserved": reserved,
        }
    }
