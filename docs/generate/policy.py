"""The page of the policy question: every input field, the answer, the library, the language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.generate.markdown import code, document, table
from policies.engine import DEADLINE_SECONDS
from policies.profile import ALLOWED_BUILTINS
from policies.question import LARGEST_QUESTION, input_schema
from policies.verdict import APPROVER_ROLES, ISOLATION, OUTPUTS

LIBRARY = Path(__file__).resolve().parents[2] / "rego" / "gateway"

INTRODUCTION = f"""
# What a policy is asked, and answers

A policy is asked once for each decision: at a quote, at a submit, and before each block of rounds
of a running job. `input` is one document of at most {LARGEST_QUESTION // 1024} KB in the form below
(`policies/input.schema.json`), stored with its SHA-256 beside the decision. ε is in whole
billionths (`…_nano`), shares and noise in whole millionths (`…_ppm`): compare those, never floats.
"""

ANSWER = f"""
## The answer

`data.<package>.decision` is an object:

| member | form |
|---|---|
| `allow` | `true` or `false` |
| `deny` | set of `{{code, field, message, limit}}`: every rule that fired |
| `approvals` | set of `{{role, count, within_hours}}`; roles {", ".join(sorted(APPROVER_ROLES))} |
| `obligations` | set of `{{type, value}}`, see below |

The job is allowed when `allow` is true and both `deny` and `approvals` are empty; it waits for
people when only `approvals` is not. Everything else is a denial: an undefined decision, an unknown
member, a wrong type, an error, an answer later than {DEADLINE_SECONDS:g} s (the default of
`PRIVACY_GATEWAY_POLICY_DEADLINE_SECONDS`).

| obligation | value | kept by |
|---|---|---|
| `outputs` | part of {", ".join(sorted(OUTPUTS))} | the download of results |
| `max_parallel_jobs` | whole number | the worker's claim: a job too many waits in the queue |
| `release_delay_hours` | whole number | the download of results |
| `isolation` | {" or ".join(ISOLATION)} | worker: one sandbox a job, or one for each group |
"""

LANGUAGE = """
## The language

A policy is one Rego module with a package of its own. It may import `data.gateway.*` and read
`input`; it has no clock, network, randomness or secrets. These functions are allowed, all others
are refused when the text is checked:
"""


def page() -> str:
    """The page."""
    inputs = table(["field", "form", "meaning"], _rows(input_schema()))
    builtins = ", ".join(code(name) for name in sorted(ALLOWED_BUILTINS))
    return document(
        INTRODUCTION, "## The input", inputs, ANSWER, "## The library", *_library(), LANGUAGE,
        builtins,
    )  # fmt: skip


def fields(schema: Mapping[str, Any], prefix: str = "input") -> Iterator[tuple[str, Any]]:
    """Every leaf of the schema with its path."""
    for name, member in schema.get("properties", {}).items():
        path = f"{prefix}.{name}"
        if "properties" in member:
            yield from fields(member, path)
        else:
            yield path, member


def _rows(schema: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(code(path), _form(leaf), leaf.get("description", "")) for path, leaf in fields(schema)]


def _form(leaf: Mapping[str, Any]) -> str:
    """Type and values in words."""
    if "const" in leaf:
        return code(leaf["const"])
    values = leaf.get("enum") or leaf.get("items", {}).get("enum")
    if values:
        several = "list of " if leaf.get("type") == "array" else ""
        return several + ", ".join(code(value) for value in values)
    kind = leaf.get("type", "")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _library() -> Iterator[str]:
    """One table for each package of the library, from its METADATA."""
    for path in sorted(LIBRARY.glob("*.rego")):
        if path.stem.endswith("_test"):
            continue
        rows = [(code(head), text) for head, text in _rules(path.read_text(encoding="utf-8"))]
        yield f"### `data.gateway.{path.stem}`"
        yield table(["rule", "meaning"], rows)


_RULE = re.compile(r"# METADATA\n((?:#.*\n)+)([a-z]\w*(?:\([^)]*\))?)")


def _rules(text: str) -> list[tuple[str, str]]:
    """Documented rules: head and description."""
    found = []
    for comment, head in _RULE.findall(text):
        words = re.sub(r"^#\s?", "", comment, flags=re.MULTILINE)
        _, colon, description = words.partition("description:")
        if colon and not head.startswith("package"):
            found.append((head, " ".join(description.lstrip(" |\n").split())))
    return found
