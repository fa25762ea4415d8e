"""Walks the syntax tree that the embedded engine's parser prints as JSON.

Only shapes are known here, no rules: references, calls, bindings and where they stand. A node is a
mapping with one member named by its kind. This module must never skip a part of a tree it does not
know: unknown kinds are walked like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.text import place

Node = Mapping[str, Any]
_REFERENCES = ("Var", "RefDot", "RefBrack")


@dataclass(frozen=True, slots=True)
class Reference:
    """A chain such as `input.job["rounds"][i]`: root name and segments, None for a variable one."""

    root: str
    segments: tuple[str | None, ...]
    start: int
    called: bool = False
    arguments: tuple[Node, ...] = ()

    @property
    def dotted(self) -> str:
        """Root and fixed segments up to the first variable one."""
        return ".".join((self.root, *self.fixed))

    @property
    def fixed(self) -> tuple[str, ...]:
        """Segments before the first variable one."""
        known: list[str] = []
        for segment in self.segments:
            if segment is None:
                break
            known.append(segment)
        return tuple(known)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule or default of a module."""

    name: str
    segments: tuple[str | None, ...]
    start: int
    is_default: bool
    is_function: bool
    node: Node

    @property
    def path(self) -> str:
        """The fixed part of its name below the package."""
        return Reference(self.name, self.segments, 0).dotted


class Source:
    """A text whose tree counts in bytes, for people who count in characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._bytes = text.encode()

    def place(self, byte_offset: int) -> tuple[int, int]:
        """1-based line and column."""
        return place(self.text, len(self._bytes[:byte_offset].decode(errors="replace")))

    def slice(self, span: Node) -> str:
        """The text of a span."""
        return self._bytes[span["start"] : span["end"]].decode(errors="replace")


def package(tree: Node) -> str:
    """`data.` and the package path of a module."""
    reference = _chain(tree["package"]["refr"])
    return "data." + (reference.dotted if reference else "")


def imports(tree: Node, source: Source) -> Iterator[tuple[str, Reference]]:
    """Local name and target of each import."""
    for item in tree["imports"]:
        target = _chain(item["refr"])
        if target is None:
            continue
        alias = source.slice(item["as"]) if item.get("as") else (target.root, *target.fixed)[-1]
        yield alias, target


def rules(tree: Node) -> Iterator[Rule]:
    """Every rule of a module, defaults and functions included."""
    for item in tree["rules"]:
        (kind, node), *_ = item.items()
        head = node if kind == "Default" else next(iter(node["head"].values()))
        reference = _chain(head["refr"])
        if reference is None:
            continue
        is_function = "Func" in node.get("head", {}) or bool(kind == "Default" and node["args"])
        yield Rule(
            reference.root,
            reference.segments,
            node["span"]["start"],
            kind == "Default",
            is_function,
            node,
        )


def references(node: Any) -> Iterator[Reference]:
    """Every reference and call in a tree, rule heads included; outermost chains only."""
    if isinstance(node, list):
        for member in node:
            yield from references(member)
    if not isinstance(node, dict):
        return
    if "Call" in node:
        yield from _call(node["Call"])
        return
    chain = _chain(node)
    if chain is None:
        for member in node.values():
            yield from references(member)
        return
    yield chain
    yield from _indices(node)


def nodes(node: Any, kind: str) -> Iterator[Node]:
    """Every node of one kind, outer before inner."""
    if isinstance(node, list):
        for member in node:
            yield from nodes(member, kind)
    elif isinstance(node, dict):
        if isinstance(node.get(kind), dict):
            yield node[kind]
        for member in node.values():
            yield from nodes(member, kind)


def statements(node: Any) -> Iterator[Node]:
    """Every statement of every body, inner ones included."""
    if isinstance(node, list):
        for member in node:
            yield from statements(member)
    elif isinstance(node, dict):
        if "literal" in node:
            yield node
        for member in node.values():
            yield from statements(member)


def bound_names(node: Node, source: Source) -> frozenset[str]:
    """Names a rule declares: arguments, `:=`, `some`, `every`."""
    names: set[str] = set()
    for head in nodes(node, "Func"):
        names |= _variables(head["args"])
    for assignment in nodes(node, "AssignExpr"):
        if assignment["op"] == "ColEq":
            names |= _variables(assignment["lhs"])
    for some in nodes(node, "SomeIn"):
        names |= _variables([some["key"], some["value"]])
    for some in nodes(node, "SomeVars"):
        names |= {source.slice(span) for span in some["vars"]}
    for every in nodes(node, "Every"):
        names |= {source.slice(span) for span in (every["key"], every["value"]) if span}
    return frozenset(names)


def constant(node: Node) -> Any:
    """The value of a literal string or list of literal strings; None for anything else."""
    if "String" in node:
        return node["String"]["value"]
    if "Array" in node:
        items = [constant(item) for item in node["Array"]["items"]]
        return items if all(isinstance(item, str) for item in items) else None
    return None


def chain_of(node: Any) -> Reference | None:
    """The reference that a node is, if it is one."""
    return _chain(node) if isinstance(node, dict) else None


def _call(call: Node) -> Iterator[Reference]:
    function = _chain(call["fcn"])
    if function is not None:
        arguments = tuple(call["params"])
        yield Reference(function.root, function.segments, function.start, True, arguments)
        yield from _indices(call["fcn"])
    else:
        yield from references(call["fcn"])
    yield from references(call["params"])


def _chain(node: Node) -> Reference | None:
    """Read a chain from its last link back to its root; None when the root is no name."""
    segments: list[str | None] = []
    while "Var" not in node:
        if "RefDot" in node:
            segments.append(node["RefDot"]["field"][1])
            node = node["RefDot"]["refr"]
        elif "RefBrack" in node:
            segments.append(_fixed_index(node["RefBrack"]["index"]))
            node = node["RefBrack"]["refr"]
        else:
            return None
    variable = node["Var"]
    return Reference(variable["value"], tuple(reversed(segments)), variable["span"]["start"])


def _fixed_index(index: Node) -> str | None:
    return index["String"]["value"] if "String" in index else None


def _indices(node: Node) -> Iterator[Reference]:
    """References inside the brackets of a chain."""
    while "Var" not in node:
        if "RefBrack" in node:
            yield from references(node["RefBrack"]["index"])
            node = node["RefBrack"]["refr"]
        elif "RefDot" in node:
            node = node["RefDot"]["refr"]
        else:
            return


def _variables(node: Any) -> set[str]:
    """Plain variables in a pattern."""
    return {chain.root for chain in references(node) if not chain.segments and not chain.called}
