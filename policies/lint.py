"""Enforces the language profile on a policy and its tests by walking their syntax trees.

What slips through here runs on every decision: a typo in an input path silently never fires, a
recursive rule kills the engine, a clock makes replay impossible. So unknown is refused, each remark
with line and column. This module must never run a policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from policies import quorum, syntax
from policies.engine import Finding, Findings, Module
from policies.inputs import PathRefused, follow, suggestion
from policies.library import Library
from policies.profile import refusal_of
from policies.question import input_schema
from policies.syntax import Node, Reference, Rule, Source
from policies.text import TextRefused, moved

Parse = Callable[[list[tuple[str, str]]], list[Any]]
_PLACE = re.compile(r"--> (\S+):(\d+):(\d+)")
_SYNTAX_HINT = "Rego 1 writes rules with `if`, members of sets with `contains`, `in` and `every`"
_TEMPLATE_HINT = 'engines differ in template strings: write sprintf("… %v …", [value])'
_VERB = re.compile(r"%[^v%]")
_SHADOWED_HINT = "choose another name"
_LIBRARY_HINT = "the library's packages are listed in the reference of policies"


class SyntaxRefused(Exception):
    """The parser's own message, which holds file, line and column."""


@dataclass(frozen=True)
class Scope:
    """What one module can name: its package, imports and rules, and all rules there are."""

    module: Module
    source: Source
    tree: Node
    package: str
    aliases: Mapping[str, str]
    rules: tuple[Rule, ...]
    known: frozenset[str]

    def finding(
        self, code: str, message: str, at: int, hint: str = "", *, warn: bool = False
    ) -> Finding:
        """A remark at a byte offset of this module."""
        line, column = self.source.place(at)
        severity = "warning" if warn else "error"
        return Finding(severity, code, message, line, column, hint, self.module)  # type: ignore[arg-type]

    def absolute(self, reference: Reference, bound: frozenset[str]) -> str | None:
        """The full path of a rule a reference names; None for input, locals and builtins."""
        if reference.root in bound or reference.root == "input":
            return None
        rest = "".join(f".{segment}" for segment in reference.fixed)
        if reference.root == "data":
            return "data" + rest
        if reference.root in self.aliases:
            return self.aliases[reference.root] + rest
        if any(rule.name == reference.root for rule in self.rules):
            return f"{self.package}.{reference.root}{rest}"
        return None

    def rule_at(self, path: str) -> str | None:
        """The known rule that a full path reads, if any."""
        return next((rule for rule in _prefixes(path) if rule in self.known), None)


def check(source: str, tests: str, parse: Parse, library: Library) -> Findings:
    """Every remark about a policy and its tests.

    Args:
        source: the policy.
        tests: its tests; may be empty.
        parse: syntax trees of (name, text) modules; raises `SyntaxRefused`.
        library: what the policy may use; its own modules are trusted.
    """
    texts: list[tuple[Module, str]] = [("policy", source)]
    if tests.strip():
        texts.append(("tests", tests))
    remarks = list(_texts(texts))
    try:
        trees = parse([*texts, *library.modules])
    except SyntaxRefused as refused:
        return Findings((*remarks, _syntax_error(str(refused), dict(texts))))
    scopes = _scopes(texts, trees)
    for scope in scopes:
        remarks += _module(scope)
    remarks += _recursion(scopes)
    remarks += _replacements(scopes[0])
    remarks += _approvals(scopes[0])
    remarks += _whole(scopes[0])
    ordered = sorted(
        set(remarks), key=lambda item: (item.module, item.line, item.column, item.code)
    )
    return Findings(tuple(ordered))


def _texts(texts: list[tuple[Module, str]]) -> Iterator[Finding]:
    """What keeps a text from being moved into its own package."""
    for module, text in texts:
        try:
            moved(text, "check", "check")
        except TextRefused as refused:
            yield Finding(
                "error",
                "package",
                refused.message,
                refused.line,
                refused.column,
                "write plain names and put nothing between them",
                module,
            )


def _syntax_error(message: str, texts: Mapping[Module, str]) -> Finding:
    found = _PLACE.search(message)
    said = message.rpartition("error:")[2].strip() or message
    if not found:
        return Finding("error", "syntax", said, hint=_SYNTAX_HINT)
    module: Module = "tests" if found[1] == "tests" else "policy"
    line, column = int(found[2]), int(found[3])
    rest = "".join(texts.get(module, "").splitlines()[line - 1 : line])[max(column - 2, 0) :]
    template = rest.lstrip().startswith(('$"', "$`", '"', "`")) and "$" in rest[:2]
    hint = _TEMPLATE_HINT if template else _SYNTAX_HINT
    return Finding("error", "syntax", said, line, column, hint, module)


def _scopes(texts: list[tuple[Module, str]], trees: list[Any]) -> list[Scope]:
    known = frozenset(
        f"{syntax.package(tree)}.{rule.path}" for tree in trees for rule in syntax.rules(tree)
    )
    scopes = []
    for (module, text), tree in zip(texts, trees, strict=False):
        source = Source(text)
        aliases = {alias: target.dotted for alias, target in syntax.imports(tree, source)}
        rules = tuple(syntax.rules(tree))
        scopes.append(Scope(module, source, tree, syntax.package(tree), aliases, rules, known))
    return scopes


def _module(scope: Scope) -> Iterator[Finding]:
    yield from _imports(scope)
    yield from _heads(scope)
    shared = _aliases_of_input(scope, [rule.node for rule in scope.rules if _is_plain(rule)])
    for rule in scope.rules:
        bound = syntax.bound_names(rule.node, scope.source)
        for name in sorted(bound & {"input", "data"}):
            message = f"{name} may not be given another meaning"
            yield scope.finding("shadowed", message, rule.start, _SHADOWED_HINT)
        views = {name: at for name, at in shared.items() if name not in bound}
        views |= _aliases_of_input(scope, [rule.node], views)
        for reference in syntax.references(rule.node):
            yield from _reference(scope, reference, bound, views)
        yield from _warnings(scope, rule.node, views)


def _imports(scope: Scope) -> Iterator[Finding]:
    for alias, target in syntax.imports(scope.tree, scope.source):
        if target.dotted == "rego.v1":
            continue
        if target.root != "data":
            message = f"{target.dotted} cannot be imported"
            yield scope.finding("import", message, target.start, "import from data.gateway only")
        elif not any(f"{rule}.".startswith(f"{target.dotted}.") for rule in scope.known):
            message = f"there is no {target.dotted}"
            yield scope.finding("unknown_reference", message, target.start, _LIBRARY_HINT)
        if alias in ("input", "data"):
            message = f"{alias} may not be given another meaning"
            yield scope.finding("shadowed", message, target.start, _SHADOWED_HINT)


def _heads(scope: Scope) -> Iterator[Finding]:
    seen: set[str] = set()
    for rule in scope.rules:
        if rule.name in ("input", "data"):
            message = f"no rule may be named {rule.name}"
            yield scope.finding("shadowed", message, rule.start, _SHADOWED_HINT)
        if rule.is_default:
            if rule.path in seen:
                message = f"{rule.path} has two defaults"
                yield scope.finding("duplicate_default", message, rule.start, "keep one")
            seen.add(rule.path)


def _reference(
    scope: Scope, reference: Reference, bound: frozenset[str], views: Mapping[str, Any]
) -> Iterator[Finding]:
    if reference.called:
        yield from _called(scope, reference, bound, views)
        return
    if reference.root == "input" or reference.root in views:
        yield from _input_path(scope, reference, views)
        return
    path = scope.absolute(reference, bound)
    if path is not None and scope.rule_at(path) is None:
        message = f"there is no {path}"
        yield scope.finding("unknown_reference", message, reference.start, "check the spelling")


def _called(
    scope: Scope, call: Reference, bound: frozenset[str], views: Mapping[str, Any]
) -> Iterator[Finding]:
    path = scope.absolute(call, bound)
    if path is not None and path in scope.known:
        return
    refusal = refusal_of(call.dotted)
    if refusal is not None:
        code, reason = refusal
        yield scope.finding(code, f"{call.dotted} may not be called", call.start, reason)
    if call.dotted == "object.get":
        yield from _object_get(scope, call, views)


def _object_get(scope: Scope, call: Reference, views: Mapping[str, Any]) -> Iterator[Finding]:
    """`object.get(input.job, "rounds", 0)` hides a typo even better than a path."""
    if len(call.arguments) != 3:
        return
    base = syntax.chain_of(call.arguments[0])
    key = syntax.constant(call.arguments[1])
    if base is None or key is None or (base.root != "input" and base.root not in views):
        return
    segments = tuple([key] if isinstance(key, str) else key)
    whole = Reference(base.root, base.segments + segments, call.start)
    yield from _input_path(scope, whole, views)


def _input_path(scope: Scope, reference: Reference, views: Mapping[str, Any]) -> Iterator[Finding]:
    start = input_schema() if reference.root == "input" else views[reference.root]
    try:
        follow(start, reference.segments)
    except PathRefused as refused:
        message = f"the input has no {reference.dotted}"
        hint = suggestion(refused)
        yield scope.finding("unknown_input_path", message, reference.start, hint)


def _is_plain(rule: Rule) -> bool:
    """`job := input.job` on its own: a name for a part of the input in the whole module."""
    return not rule.is_default and not rule.is_function and not rule.node["bodies"]


def _aliases_of_input(
    scope: Scope, trees: list[Node], outer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Names that are assigned a part of the input, with the schema of that part."""
    found: dict[str, Any] = {}
    for name, value in _assignments(trees):
        target = syntax.chain_of(value)
        views = {**(outer or {}), **found, "input": input_schema()}
        if target is None or target.root not in views:
            continue
        try:
            found[name] = follow(views[target.root], target.segments)
        except PathRefused:
            continue  # remarked where the reference stands
    return {name: view for name, view in found.items() if view is not None}


def _assignments(trees: list[Node]) -> Iterator[tuple[str, Node]]:
    for tree in trees:
        for head in syntax.nodes(tree.get("head", {}), "Compr"):
            target = syntax.chain_of(head["refr"])
            if head["assign"] and target is not None and not tree["bodies"]:
                yield target.root, head["assign"]["value"]
        for assignment in syntax.nodes(tree, "AssignExpr"):
            target = syntax.chain_of(assignment["lhs"])
            if assignment["op"] == "ColEq" and target is not None:
                yield target.root, assignment["rhs"]


def _may_be_fraction(node: Node, views: Mapping[str, Any]) -> bool:
    """A literal with a point, or a part of the input that need not be whole."""
    if "Number" in node:
        return isinstance(node["Number"]["value"], float)
    target = syntax.chain_of(node)
    if target is None or (target.root != "input" and target.root not in views):
        return False
    start = input_schema() if target.root == "input" else views[target.root]
    try:
        found = follow(start, target.segments)
    except PathRefused:
        return False  # remarked where the reference stands
    kinds = (found or {}).get("type", ())
    return "number" in ([kinds] if isinstance(kinds, str) else kinds)


def _warnings(scope: Scope, node: Node, views: Mapping[str, Any]) -> Iterator[Finding]:
    for arithmetic in syntax.nodes(node, "ArithExpr"):
        fractions = any(_may_be_fraction(arithmetic[side], views) for side in ("lhs", "rhs"))
        if fractions or arithmetic["op"] == "Div":
            message = "engines may differ in float arithmetic"
            hint = "count in whole units: billionths of ε, or the millionths of input.derived"
            at = arithmetic["span"]["start"]
            yield scope.finding("float_arithmetic", message, at, hint, warn=True)
    for call in syntax.nodes(node, "Call"):
        function = syntax.chain_of(call["fcn"])
        text = syntax.constant(call["params"][0]) if call["params"] else None
        if function is None or function.dotted != "sprintf" or not isinstance(text, str):
            continue
        if _VERB.search(text):
            message = "engines may differ in this verb"
            yield scope.finding("sprintf_verb", message, function.start, "use %v", warn=True)


def _recursion(scopes: list[Scope]) -> Iterator[Finding]:
    """A rule that needs itself: one engine refuses it, the other loses its process."""
    needs: dict[str, set[str]] = {}
    places: dict[str, tuple[Scope, Rule]] = {}
    for scope in scopes:
        for rule in scope.rules:
            path = f"{scope.package}.{rule.path}"
            places.setdefault(path, (scope, rule))
            needs.setdefault(path, set()).update(_needs(scope, rule))
    for path, (scope, rule) in places.items():
        if path in _reachable(path, needs):
            message = f"{rule.path} needs itself"
            hint = "say in one rule what the other needs, without going round"
            yield scope.finding("recursion", message, rule.start, hint)


def _replacements(scope: Scope) -> Iterator[Finding]:
    """`with` is for tests: engines differ in what it reaches, and it hides what is really asked."""
    for statement in syntax.statements(scope.tree["rules"]):
        for change in statement.get("with_mods", ()):
            hint = "read the input as it is; replace it in the tests only"
            yield scope.finding("with", "with belongs in tests", change["span"]["start"], hint)


def _approvals(scope: Scope) -> Iterator[Finding]:
    """People who are not there cannot agree."""
    for rule in scope.rules:
        bound = syntax.bound_names(rule.node, scope.source)
        for at, count in quorum.too_many(rule.node, partial(scope.absolute, bound=bound)):
            yield scope.finding(quorum.CODE, quorum.message(count), at, quorum.HINT)


def _needs(scope: Scope, rule: Rule) -> Iterator[str]:
    bound = syntax.bound_names(rule.node, scope.source)
    body = {name: part for name, part in rule.node.items() if name not in ("refr", "head")}
    heads = [
        {name: part for name, part in head.items() if name != "refr"}
        for head in rule.node.get("head", {}).values()
    ]
    for reference in syntax.references([body, heads]):
        path = scope.absolute(reference, bound)
        target = scope.rule_at(path) if path else None
        if target:
            yield target


def _reachable(start: str, needs: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    open_paths = list(needs.get(start, ()))
    while open_paths:
        path = open_paths.pop()
        if path not in seen:
            seen.add(path)
            open_paths.extend(needs.get(path, ()))
    return seen


def _whole(policy: Scope) -> Iterator[Finding]:
    """What a complete revision must have."""
    if not any(rule.path == "decision" for rule in policy.rules):
        hint = "the gateway asks data.<package>.decision"
        yield policy.finding("missing_decision", "the policy has no rule decision", 0, hint)


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])
