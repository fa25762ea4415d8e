"""Mutation testing of the accountant (`make mutants`): lay the house out, judge, count.

mutmut wants packages side by side below one root, so rooms and tests are copied to
`.cache/mutants`; nothing in the checkout is ever touched. A mutant that changes only the wording of
a message is counted apart and not judged: tests assert codes and fields, not prose. `MUTANTS` names
some, `MUTANTS_SECONDS` limits the judging; see `mutants_judge.py`, which keeps one core busy.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from mutants_wording import only_wording

REPOSITORY = Path(__file__).resolve().parents[1]
HOUSE = REPOSITORY / ".cache" / "mutants"
FOLDERS = {
    name: name
    for name in (
        "accounting", "gateway", "jobs", "policies", "kit",
        "tests/accounting", "tests/reference", "tests/support", "tests/assets/tampered",
    )
} | {"client/privacy_gateway": "privacy_gateway"}  # fmt: skip
FILES = (
    "tests/conftest.py", "tests/client/forgeries.py",
    "tests/client/test_apart.py", "tests/client/test_questioned.py", "tests/client/test_rdp.py",
    "tests/client/test_rdp_exact.py", "tests/client/test_rules.py",
    "tests/client/test_tampered.py", "tests/client/test_unproven.py",
    "tests/client/test_verify.py",
)  # fmt: skip
KILLED, SURVIVED, UNTESTED = {1, 3}, {0}, {5, 33}
TIMEOUT = {24, 36, 152, 255, -24}


def lay_out() -> None:
    """Copy what is mutated and what tests it; mutmut's own folder below stays, as its cache."""
    for source, target in FOLDERS.items():
        shutil.rmtree(HOUSE / target, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / source, HOUSE / target, ignore=ignored)
    for name in FILES:
        (HOUSE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, HOUSE / name)
    shutil.copy2(REPOSITORY / ".ci" / "mutants.toml", HOUSE / "pyproject.toml")
    for package in (".", "accounting", "privacy_gateway"):
        for stale in (HOUSE / "mutants" / package).glob("*.py"):
            if package != "." and not (HOUSE / package / stale.name).exists():
                stale.unlink()


def run() -> None:
    """Make and judge at low priority; when the time is over what was found is kept."""
    chosen = os.environ.get("MUTANTS", "").split()
    judge = [sys.executable, str(Path(__file__).with_name("mutants_judge.py"))]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "mutants", "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments, folder in (["prepare"], HOUSE), (["judge", *chosen], HOUSE / "mutants"):
        command = ["nice", "-n", "10", *judge, *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True)


def report() -> int:
    """One line a module, then the survivors by name; 1 when mutmut has not finished."""
    counts: dict[str, Counter[str]] = {}
    survivors: list[str] = []
    for meta in sorted((HOUSE / "mutants").glob("*/*.py.meta")):
        module = f"{meta.parent.name}/{meta.name.removesuffix('.py.meta')}"
        found = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        tally = counts.setdefault(module, Counter())
        for name, code in found.items():
            verdict = _verdict(meta, name, code)
            tally[verdict] += 1
            if verdict in ("survived", "untested"):
                shown = [
                    f"  - {old.strip()}\n  + {new.strip()}" for old, new in _changes(meta, name)
                ]
                survivors.append("\n".join([name, *shown]))
    _print(counts)
    (HOUSE / "survivors.txt").write_text("\n".join(survivors) + "\n", encoding="utf-8")
    total = sum(counts.values(), Counter())
    print(f"{total['survived'] + total['untested']} left: .cache/mutants/survivors.txt")
    return 1 if total["unchecked"] else 0


def _verdict(meta: Path, name: str, code: int | None) -> str:
    if only_wording(meta, name):
        return "wording"
    if code is None:
        return "unchecked"
    if code in KILLED:
        return "killed"
    if code in TIMEOUT or code < 0 or code > 100:
        return "timeout"
    return "untested" if code in UNTESTED else "survived"


def _changes(meta: Path, name: str) -> list[tuple[str, str]]:
    """Lines of the function that the mutant changed, before and after."""
    lines = meta.with_suffix("").read_text(encoding="utf-8").split("\n")
    spans = json.loads(meta.with_suffix(".spans").read_text(encoding="utf-8"))["spans"]
    key = name.rpartition(".")[2]
    original = key.rpartition("__mutmut_")[0] + "__mutmut_orig"
    before, after = (
        [line for line in lines[spans[part][0] : spans[part][1]] if part not in line]
        for part in (original, key)
    )
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [
        ("\n".join(before[a:b]), "\n".join(after[c:d]))
        for kind, a, b, c, d in matcher.get_opcodes()
        if kind != "equal"
    ]


def _print(counts: dict[str, Counter[str]]) -> None:
    verdicts = ("killed", "timeout", "survived", "untested", "wording", "unchecked")
    print(f"{'module':32}" + "".join(f"{verdict:>10}" for verdict in verdicts) + f"{'score':>9}")
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    for module, tally in rows:
        dead = tally["killed"] + tally["timeout"]
        alive = tally["survived"] + tally["untested"]
        score = f"{100 * dead / (dead + alive):8.1f}%" if dead + alive else "        -"
        print(f"{module:32}" + "".join(f"{tally[v]:>10}" for v in verdicts) + score)


if __name__ == "__main__":
    if "--report" not in sys.argv:
        lay_out()
        run()
    sys.exit(report())
