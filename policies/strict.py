"""A second reading of a policy by `opa check`: strict, with our capabilities and our schema.

Where an `opa` program is present, its compiler looks at a text as well: types of the input, unused
names, functions outside the profile. It sees more than our own lint and shares none of its code.
What it cannot say in time is a failure, never a clean reading. This module must never run a policy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.engine import Finding, Findings, Module
from policies.errors import EngineFailed, Fault
from policies.library import library
from policies.profile import ALLOWED_BUILTINS
from policies.question import input_schema
from privacy_gateway import canonical

READING_SECONDS = 10.0
_FEATURES = frozenset({"rego_v1", "keywords_in_refs"})
# Operators and what the compiler itself puts in; a name of these cannot be written in a policy.
_OPERATORS = frozenset({"internal.member_2", "internal.member_3", "internal.test_case"})


@dataclass(frozen=True, slots=True)
class StrictReader:
    """Reads policies with an `opa` program.

    Attributes:
        binary: the program.
        seconds: after this a reading has failed.
    """

    binary: Path
    seconds: float = READING_SECONDS

    def check(self, source: str, tests: str = "") -> Findings:
        """What OPA's compiler says of both texts.

        Raises:
            EngineFailed: the program cannot be run, or is late.
        """
        with tempfile.TemporaryDirectory(prefix="gateway-policy-") as folder:
            place = Path(folder)
            rego = _laid_out(place, source, tests)
            self._capabilities(place / "capabilities.json")
            (place / "input.json").write_bytes(canonical.dumps(_plain(input_schema()), floats=True))
            arguments = ["check", "--strict", "--format", "json"]
            arguments += ["--capabilities", "capabilities.json", "--schema", "input.json"]
            done = self._run([*arguments, rego.name], place)
        if done.returncode == 0:
            return Findings()
        return Findings(tuple(_findings(done)))

    def _capabilities(self, path: Path) -> None:
        """What the profile allows, in the form of this very version."""
        done = self._run(["capabilities", "--current"], path.parent)
        try:
            found = json.loads(done.stdout)
        except ValueError:
            raise _broken(done) from None
        found["builtins"] = [one for one in found["builtins"] if _is_known(one)]
        found["features"] = sorted(_FEATURES & set(found.get("features", [])))
        found |= {"future_keywords": [], "allow_net": []}
        path.write_text(json.dumps(found), encoding="utf-8")

    def _run(self, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [str(self.binary.absolute()), *arguments],
                cwd=folder,
                env={"HOME": str(folder)},
                capture_output=True,
                text=True,
                timeout=self.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise EngineFailed(Fault.TIMEOUT, "`opa check` has not ended in time") from late
        except OSError as error:
            raise EngineFailed(Fault.UNREACHABLE, f"`opa` cannot be run: {error}") from error


def reader(binary: Path | None) -> StrictReader | None:
    """A reader with the program of the settings, or with the `opa` on PATH; None without one."""
    found = str(binary) if binary else shutil.which("opa")
    return StrictReader(Path(found)) if found else None


def _is_known(builtin: Mapping[str, Any]) -> bool:
    name = builtin["name"]
    return name in ALLOWED_BUILTINS or name in _OPERATORS or "infix" in builtin


def _laid_out(place: Path, source: str, tests: str) -> Path:
    """The texts and the library as files."""
    rego = place / "rego"
    (rego / "library").mkdir(parents=True)
    for name, text in library().modules:
        (rego / "library" / name).write_text(text, encoding="utf-8")
    (rego / "policy.rego").write_text(source, encoding="utf-8")
    if tests.strip():
        (rego / "policy_test.rego").write_text(tests, encoding="utf-8")
    return rego


def _plain(schema: Any) -> Any:
    """The schema with `anyOf` for lists of types, of which OPA would take one alone."""
    if isinstance(schema, list):
        return [_plain(member) for member in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain = {name: _plain(value) for name, value in schema.items()}
    if isinstance(kinds := plain.get("type"), list):
        del plain["type"]
        plain["anyOf"] = [{"type": kind} for kind in kinds]
    return plain


def _findings(done: subprocess.CompletedProcess[str]) -> list[Finding]:
    try:
        errors = json.loads(done.stdout or done.stderr)["errors"]
        return [_finding(error) for error in errors]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _broken(done) from None


def _broken(done: subprocess.CompletedProcess[str]) -> EngineFailed:
    said = (done.stderr or done.stdout).strip()[:500]
    return EngineFailed(Fault.CRASHED, f"`opa` ended with {done.returncode}: {said!r}")


def _finding(error: Mapping[str, Any]) -> Finding:
    location = error.get("location") or {}
    module: Module = "tests" if str(location.get("file", "")).endswith("_test.rego") else "policy"
    known = (error.get("details") or {}).get("oneOf")
    hint = f"known here: {', '.join(map(str, known))}" if isinstance(known, list) else ""
    return Finding(
        "error",
        str(error.get("code", "rego_compile_error")),
        str(error.get("message", "does not compile"))[:500],
        int(location.get("row", 0)),
        int(location.get("col", 0)),
        hint[:500],
        module,
    )
