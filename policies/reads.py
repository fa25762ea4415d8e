"""Which parts of its input a policy can look at, so that it need not be asked twice about the rest.

A policy is closed over its input and the library (`policies.profile`): no clock, no chance, no
network. So two questions that agree on everything its text names have one answer. The text is read
token by token: `input.a.b` and `object.get(input, ["a", "b"], …)` name a path, calls of the library
are followed rule by rule, and whatever is not understood counts as reading everything. This module
may see too much, never too little; a recorded input is the fresh one, so a replay would show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from policies.library import library
from policies.text import Token, tokens

Path = tuple[str, ...]
Reference = tuple[str, ...]
EVERYTHING: frozenset[Path] = frozenset({()})
_ABSENT = object()


@dataclass(slots=True)
class _Unit:
    """What one definition, or one whole policy, names: input paths, dotted names, plain names."""

    paths: set[Path] = field(default_factory=set)
    references: set[Reference] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def all(self) -> None:
        self.paths.add(())


@lru_cache(maxsize=256)
def paths_read(source: str) -> frozenset[Path]:
    """Paths below `input` that a decision of this policy text can depend on; () is all of it."""
    significant = _significant(source)
    unit = _scan(significant, _aliases(significant))
    found, seen = set(unit.paths), set[tuple[str, str]]()
    waiting = list(unit.references)
    while waiting and () not in found:
        for module, rule in _rules_of(waiting.pop()):
            if (module, rule) in seen:
                continue
            seen.add((module, rule))
            if not rule:
                return EVERYTHING
            inner = _modules()[module][rule]
            found |= inner.paths
            waiting += inner.references
            waiting += [
                (*module.split("."), name) for name in inner.names & set(_modules()[module])
            ]
    return EVERYTHING if () in found else frozenset(found)


def same(source: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether a policy text must answer both question documents alike."""
    return all(_at(first, path) == _at(second, path) for path in paths_read(source))


def _at(document: Any, path: Path) -> Any:
    for member in path:
        # `dict` first: asking an abstract class costs more than the step.
        if not isinstance(document, dict | Mapping) or member not in document:
            return _ABSENT
        document = document[member]
    return document


def _rules_of(reference: Reference) -> Iterator[tuple[str, str]]:
    """Library rules a dotted name stands for; an empty rule for what cannot be told."""
    modules = _modules()
    for length in range(len(reference), 0, -1):
        module = ".".join(reference[:length])
        if module not in modules:
            continue
        names = reference[length : length + 1] or tuple(modules[module])
        yield from ((module, name if name in modules[module] else "") for name in names)
        return
    yield "", ""


@cache
def _modules() -> Mapping[str, Mapping[str, _Unit]]:
    """Every rule of the library by package and name."""
    found: dict[str, Mapping[str, _Unit]] = {}
    for _, text in library().modules:
        significant = _significant(text)
        aliases = _aliases(significant)
        rules: dict[str, _Unit] = defaultdict(_Unit)
        for name, body in _definitions(text, significant):
            unit = _scan(body, aliases)
            rules[name].paths |= unit.paths
            rules[name].references |= unit.references
            rules[name].names |= unit.names
        found[_dotted(significant, 1)[0]] = dict(rules)
    return found


def _definitions(text: str, significant: Sequence[Token]) -> Iterator[tuple[str, Sequence[Token]]]:
    """Name and tokens of each definition of a formatted module: it starts at a line's beginning."""
    starts = [
        index
        for index, token in enumerate(significant)
        if token.kind == "name"
        and (token.start == 0 or text[token.start - 1] == "\n")
        and token.text not in ("package", "import")
    ]
    for index, after in zip(starts, [*starts[1:], len(significant)], strict=True):
        body = significant[index:after]
        yield body[1].text if body[0].text == "default" else body[0].text, body


def _scan(significant: Sequence[Token], aliases: Mapping[str, Reference]) -> _Unit:
    unit = _Unit()
    index = 0
    while index < len(significant):
        token = significant[index]
        if token.text == "$" and token.kind == "other":
            unit.all()  # a text with expressions inside
        if token.kind != "name" or _is_member(significant, index):
            index += 1
        elif token.text == "import":
            index = _after_import(significant, index, unit)
        else:
            _note(unit, significant, index, aliases)
            index += 1
    return unit


def _note(
    unit: _Unit, significant: Sequence[Token], index: int, aliases: Mapping[str, Reference]
) -> None:
    """What one name stands for."""
    name = significant[index].text
    if name == "with":
        unit.all()
    elif name == "input":
        unit.paths.add(_input_path(significant, index))
    elif name == "data":
        _note_data(unit, significant, index)
    elif name in aliases:
        unit.references.add((*aliases[name], *_chain(significant, index)))
    else:
        unit.names.add(name)


def _after_import(significant: Sequence[Token], index: int, unit: _Unit) -> int:
    """Skip an import; one of a part of the input reads that part."""
    dotted, end = _dotted(significant, index + 1)
    segments = dotted.split(".")
    if segments[0] == "input":
        unit.paths.add(tuple(segments[1:]))
    elif segments[0] == "data" and segments[1:2] != ["gateway"]:
        unit.all()
    if end + 1 < len(significant) and significant[end].text == "as":
        return end + 2
    return end


def _aliases(significant: Sequence[Token]) -> dict[str, Reference]:
    """Names that imports of the library bind."""
    found: dict[str, Reference] = {}
    for index, token in enumerate(significant):
        if token.text != "import" or token.kind != "name" or _is_member(significant, index):
            continue
        dotted, end = _dotted(significant, index + 1)
        segments = tuple(dotted.split("."))
        if segments[:2] == ("data", "gateway"):
            named = end + 1 < len(significant) and significant[end].text == "as"
            found[significant[end + 1].text if named else segments[-1]] = segments[1:]
    return found


def _note_data(unit: _Unit, significant: Sequence[Token], index: int) -> None:
    chain = _chain(significant, index)
    if chain[:1] == ("gateway",):
        unit.references.add(chain)
    elif not chain:
        unit.all()
    # Anything else below `data` is the policy's own, and read here already.


def _input_path(significant: Sequence[Token], index: int) -> Path:
    """The path that stands at `input`; () where it cannot be told."""
    chain = _chain(significant, index, strings=True)
    if chain:
        return chain
    before = [token.text for token in significant[max(0, index - 4) : index]]
    after = significant[index + 1 :]
    if before != ["object", ".", "get", "("] or [t.text for t in after[:2]] != [",", "["]:
        return ()
    path: list[str] = []
    for member, separator in zip(after[2::2], after[3::2], strict=False):
        if member.kind != "string" or "\\" in member.text or separator.text not in (",", "]"):
            return ()
        path.append(member.text[1:-1])
        if separator.text == "]":
            return tuple(path)
    return ()


def _chain(significant: Sequence[Token], index: int, *, strings: bool = False) -> Path:
    """The names after a token: `.a.b`, and `["a"]` where that is wanted."""
    found: list[str] = []
    rest = significant[index + 1 : index + 64]
    at = 0
    while at + 1 < len(rest):
        mark, name = rest[at], rest[at + 1]
        if mark.text == "." and name.kind == "name":
            found.append(name.text)
            at += 2
        elif (
            strings
            and mark.text == "["
            and name.kind == "string"
            and "\\" not in name.text
            and at + 2 < len(rest)
            and rest[at + 2].text == "]"
        ):
            found.append(name.text[1:-1])
            at += 3
        else:
            break
    return tuple(found)


def _dotted(significant: Sequence[Token], index: int) -> tuple[str, int]:
    """A dotted path of plain names and the index behind it."""
    if index >= len(significant):
        return "", index
    chain = _chain(significant, index)
    return ".".join((significant[index].text, *chain)), index + 1 + 2 * len(chain)


def _is_member(significant: Sequence[Token], index: int) -> bool:
    return index > 0 and significant[index - 1].text == "."


def _significant(source: str) -> list[Token]:
    return [token for token in tokens(source) if token.kind not in ("space", "comment")]
