"""An export of some populations whose chains are not, or not as far, under the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from privacy_gateway import canonical, checkpoint
from privacy_gateway.logbook import Asked
from privacy_gateway.verify import verify

FOLDER = Path(__file__).parents[1] / "assets" / "tampered"
PART = (FOLDER / "part.jsonl").read_bytes().splitlines()
KEY = checkpoint.read_verifier((FOLDER / "key.txt").read_text())


def proofs(lines: list[bytes], count: int) -> list[bytes]:
    """The export with its proof of inclusion repeated or left out, header and all."""
    header = json.loads(lines[0])
    header["log"]["proofs"] = count
    kept = [line for line in lines[1:-1] if not line.startswith(b'{"proof":')]
    (proof,) = [line for line in lines if line.startswith(b'{"proof":')]
    return [canonical.dumps(header), *kept, *[proof] * count, lines[-1]]


def test_a_chain_of_which_nothing_is_proven_is_refused() -> None:
    """Else any chain goes with a checkpoint that was truly signed, and kept by the auditor."""
    note = json.loads(PART[-1])["checkpoint"]
    report = verify(proofs(PART, 0), asked=Asked([KEY], older=note))

    (problem,) = report.problems
    assert (problem.kind, problem.population, problem.seq) == ("truncated", "pop_a", 1)
    assert problem.line == len(PART) - 1


def test_two_proofs_of_one_entry_cover_no_more_than_one() -> None:
    proof = next(line for line in PART if line.startswith(b'{"proof":'))
    last = json.loads(proof)["proof"]["seq"]
    entries = sum(line.startswith(b'{"hash":') for line in PART)
    assert verify(PART).log.beyond == entries - last == 0  # type: ignore[union-attr]

    from privacy_gateway import chain

    head = json.loads(next(line for line in PART if line.startswith(b'{"head":')))["head"]
    before = json.loads(chain.read_line(PART[last]).leaf)  # type: ignore[union-attr]
    leaf = canonical.dumps(
        {
            "actor": "usr_owner",
            "at": before["at"],
            "balance": before["balance"],
            "kind": "note",
            "population": head["population"],
            "reason": "nobody has seen this",
            "seq": last + 1,
        }
    )
    sealed = chain.seal(head["hash"], leaf)
    longer = canonical.dumps({"head": head | {"seq": last + 1, "hash": sealed}})
    lines = [longer if line.startswith(b'{"head":') else line for line in PART]
    lines.insert(last + 1, chain.write_line(sealed, leaf, head["hash"]))

    for count in (1, 2):
        report = verify(proofs(lines, count), asked=Asked([KEY]))
        assert report.ok
        assert report.log is not None
        assert report.log.beyond == 1
