"""The part of Rego a policy may use: functions both engines have and answer alike, and no others.

A policy may look at its input and at the library, at nothing else: no clock, no network, no chance,
no secrets. Extending the list needs a parity test. This module must never allow by pattern.
"""

from __future__ import annotations

ALLOWED_BUILTINS = frozenset(
    {
        "abs",
        "ceil",
        "floor",
        "round",
        "count",
        "sum",
        "product",
        "max",
        "min",
        "sort",
        "array.concat",
        "array.reverse",
        "array.slice",
        "intersection",
        "union",
        "object.get",
        "object.keys",
        "object.remove",
        "object.subset",
        "object.union",
        "object.filter",
        "concat",
        "contains",
        "endswith",
        "startswith",
        "indexof",
        "lower",
        "upper",
        "replace",
        "split",
        "substring",
        "sprintf",
        "format_int",
        "trim",
        "trim_left",
        "trim_prefix",
        "trim_right",
        "trim_space",
        "trim_suffix",
        "strings.any_prefix_match",
        "strings.any_suffix_match",
        "strings.count",
        "strings.reverse",
        "regex.match",
        "regex.is_valid",
        "is_array",
        "is_boolean",
        "is_null",
        "is_number",
        "is_object",
        "is_set",
        "is_string",
        "type_name",
        "numbers.range",
        "to_number",
        "time.parse_rfc3339_ns",
        "time.clock",
        "time.date",
        "time.weekday",
    }
)

_REASONS = {
    "http.": "a policy may not reach the network",
    "net.": "a policy may not reach the network",
    "opa.": "a policy may not see the machine it runs on",
    "rand.": "a decision may not depend on chance",
    "uuid.": "a decision may not depend on chance",
    "time.now_ns": "a policy has no clock; use input.request.time_ns",
    "io.jwt.": "a policy checks no tokens; the gateway has done so",
    "crypto.": "a policy needs no cryptography",
    "rego.": "a policy may not look at itself",
    "trace": "a decision leaves no side effects",
    "print": "a decision leaves no side effects; remove it before publishing",
}

_KNOWN_ROOTS = frozenset(
    {
        "array",
        "base64",
        "base64url",
        "bits",
        "crypto",
        "glob",
        "graph",
        "hex",
        "http",
        "io",
        "json",
        "net",
        "numbers",
        "object",
        "opa",
        "rand",
        "regex",
        "rego",
        "semver",
        "strings",
        "time",
        "units",
        "urlquery",
        "uuid",
        "yaml",
    }
)


def refusal_of(function: str) -> tuple[str, str] | None:
    """Finding code and reason for a function that may not be called; None when it may."""
    if function in ALLOWED_BUILTINS:
        return None
    for prefix, reason in _REASONS.items():
        if function == prefix or (prefix.endswith(".") and function.startswith(prefix)):
            return "forbidden_builtin", reason
    if function.partition(".")[0] in _KNOWN_ROOTS:
        return "forbidden_builtin", "this function is not in the language profile"
    return "unknown_function", "there is no such function in this policy, the library or Rego"
