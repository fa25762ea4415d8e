"""The protocol holds in every interleaving of a small world, and each known mistake is found.

`gateway.pml` is checked by spin: once as it stands, then with one mistake at a time. A mistake that
nobody catches means that the assertion it should break says nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import missing

MODEL = Path(__file__).with_name("gateway.pml")
ENDS = "every_job_ends"
MEMORY_MB = 1000

# Three jobs on one budget with any one fault; two jobs that compete with any two faults.
CROWD = {"JOBS": 3, "LIMIT": 4, "FAULTS": 1}
STORM = {"JOBS": 2, "LIMIT": 3, "FAULTS": 2}

# The assertion that must fall, in the words of spin, which prints a name of `mtype` as a number.
CAUGHT_BY = {
    "MUTANT_SPLIT_RESERVE": "charged+reserved)<=3",
    "MUTANT_OPEN_BEFORE_CHARGE": "paid&(1<<(round-1))",
    "MUTANT_CHARGE_ONCE_PER_ROUND": "paid&(1<<(round-1))",
    "MUTANT_REFUND_STARTED": "charged>=highest",
    "MUTANT_END_KEEPS_RESERVATION": "jobs[job].held==0",
    "MUTANT_PUBLISH_UNFENCED": "!((jobs[job].status==",
    "MUTANT_PUBLISH_OVERWRITES": "jobs[job].releases&(1<<(round-1))",
    "MUTANT_PUBLISH_UNANSWERED": "round<=answered",
    "MUTANT_CHARGE_UNFENCED": "jobs[job].fence==fence",
    "MUTANT_POLICY_UNCOMPARED": "owner==",
    "MUTANT_TRUST_HINT": "!((jobs[job].status==",
}
NEVER_ENDS = {"MUTANT_HINT_ONCE", "MUTANT_NO_REAPER"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the search of one configuration said."""

    errors: int
    complete: bool
    broken: str
    unreached: list[str]


@pytest.fixture(autouse=True)
def tools() -> None:
    """Spin writes a verifier in C, which is compiled and run."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            missing(tool)


@pytest.mark.slow
def test_three_jobs_on_one_budget_keep_the_promises(tmp_path: Path) -> None:
    verdict = search(tmp_path, CROWD)
    assert (verdict.errors, verdict.broken) == (0, "")
    assert verdict.complete


@pytest.mark.slow
def test_two_faults_break_no_promise_and_reach_every_step(tmp_path: Path) -> None:
    """A step out of reach would be a promise about nothing. Workers themselves never end."""
    verdict = search(tmp_path, STORM)
    assert (verdict.errors, verdict.broken) == (0, "")
    assert verdict.complete
    assert [step for step in verdict.unreached if '"-end-"' not in step] == []


@pytest.mark.slow
def test_every_job_ends(tmp_path: Path) -> None:
    verdict = search(tmp_path, STORM, liveness=True)
    assert (verdict.errors, verdict.broken) == (0, "")
    assert verdict.complete


@pytest.mark.parametrize("mutant", sorted(CAUGHT_BY))
def test_a_mistake_breaks_a_promise(tmp_path: Path, mutant: str) -> None:
    verdict = search(tmp_path, STORM | {mutant: 1})
    assert verdict.errors == 1
    assert CAUGHT_BY[mutant] in verdict.broken


@pytest.mark.parametrize("mutant", sorted(NEVER_ENDS))
def test_a_mistake_leaves_a_job_without_end(tmp_path: Path, mutant: str) -> None:
    verdict = search(tmp_path, STORM | {mutant: 1}, liveness=True)
    assert verdict.errors == 1
    assert "acceptance cycle" in verdict.broken


def test_every_mistake_in_the_model_is_tried() -> None:
    assert set(re.findall(r"MUTANT_[A-Z_]+[A-Z]", MODEL.read_text())) == (
        set(CAUGHT_BY) | NEVER_ENDS
    )


def search(folder: Path, world: Mapping[str, int], *, liveness: bool = False) -> Verdict:
    """Every reachable state of the model under `world`, up to the first error."""
    defines = [f"-D{name}={value}" for name, value in world.items()]
    _run(folder, "spin", "-a", *defines, str(MODEL))
    # Assertions need no claim beside them, which would also cut the search at its fulfilment.
    kind = ["-DNOFAIR"] if liveness else ["-DSAFETY", "-DNOCLAIM"]
    optimise = "-O0" if any(name.startswith("MUTANT") for name in world) else "-O2"
    _run(folder, "gcc", optimise, "-w", *kind, f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c")
    claim = ["-a", "-N", ENDS] if liveness else []
    return _verdict(_run(folder, "./pan", "-m10000", "-w22", *claim))


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def _verdict(text: str) -> Verdict:
    errors = re.search(r"errors: (\d+)", text)
    assert errors is not None, text
    broken = re.search(r"^pan:1: (.*)$", text, flags=re.MULTILINE)
    return Verdict(
        errors=int(errors[1]),
        complete="Search not completed" not in text and "too small" not in text,
        broken=broken[1] if broken else "",
        unreached=re.findall(r"^\t\S+\.pml:\d+, state \d+, .*$", text, flags=re.MULTILINE),
    )
