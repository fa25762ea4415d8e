"""Just enough of Rego's lexical grammar to move a policy into a package of its own.

Every revision is loaded below a package path that holds its digest, so that two data sets may use
the same package name and an engine can never answer with another revision's rules. That takes two
edits: the `package` line, and every reference that starts at `data`. Strings and comments are never
touched. What this module does not understand it refuses; it must never guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LIBRARY_ROOT = "gateway"
ENVELOPE = "gateway_envelope"
"""Package of the generated module that answers for a revision."""

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<comment>\#[^\n]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<raw>`[^`]*`)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>[0-9][0-9A-Za-z_.]*)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SEGMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = frozenset(
    {LIBRARY_ROOT, ENVELOPE, "library", "revisions", "tests", "bundled", "system", "data", "input"}
)
"""First segments an owner's package may not have."""


class TextRefused(ValueError):
    """A text that cannot be moved safely; line and column are 1-based."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Token:
    """One lexical unit and where it starts."""

    kind: str
    text: str
    start: int


def tokens(source: str) -> Iterator[Token]:
    """Every unit of the text, white space and comments included, so that joining gives it back."""
    for match in _TOKEN.finditer(source):
        yield Token(match.lastgroup or "other", match.group(), match.start())


def place(source: str, offset: int) -> tuple[int, int]:
    """1-based line and column of a character offset."""
    line = source.count("\n", 0, offset) + 1
    return line, offset - (source.rfind("\n", 0, offset) + 1) + 1


def package_of(source: str) -> str:
    """The dotted package path.

    Raises:
        TextRefused: no package line first, a quoted path, or a reserved first segment.
    """
    return ".".join(token.text for token in _package_tokens(source, _meaningful(source)))


def moved(source: str, root: str, library_root: str) -> str:
    """The text with its package below `root` and its references following.

    `data.gateway…` becomes `data.<library_root>.gateway…`; every other `data…` becomes
    `data.<root>…`. Lines stay where they are.

    Raises:
        TextRefused: see `package_of`; also for `data` used as a whole or indexed by a variable.
    """
    significant = _meaningful(source)
    package = _package_tokens(source, significant)
    edits = [(package[0].start, f"{root}.")]
    for index, token in enumerate(significant):
        if token.text != "data" or token.kind != "name" or _is_member(significant, index):
            continue
        if token.start == package[0].start:
            continue
        first = _first_segment(source, significant, index)
        target = library_root if first == LIBRARY_ROOT else root
        edits.append((token.start + len("data"), f".{target}"))
    return _apply(source, edits)


def moved_whole(source: str, root: str) -> str:
    """A trusted text, such as the library's, moved with all its references."""
    significant = _meaningful(source)
    edits = [(significant[1].start, f"{root}.")]
    edits += [
        (token.start + len("data"), f".{root}")
        for index, token in enumerate(significant)
        if token.kind == "name" and token.text == "data" and not _is_member(significant, index)
    ]
    return _apply(source, edits)


def rules_of_tests(source: str) -> tuple[str, ...]:
    """Names of the rules `test_*` that the text defines, in order."""
    names: dict[str, None] = {}
    depth = 0
    fresh_line = True
    for token in tokens(source):
        if token.kind == "space":
            fresh_line = fresh_line or "\n" in token.text
            continue
        if token.kind == "other":
            depth += (token.text in "([{") - (token.text in ")]}")
        if fresh_line and depth == 0 and token.kind == "name" and token.text.startswith("test_"):
            names[token.text] = None
        fresh_line = False
    return tuple(names)


def _meaningful(source: str) -> list[Token]:
    return [token for token in tokens(source) if token.kind not in ("space", "comment")]


def _package_tokens(source: str, significant: list[Token]) -> list[Token]:
    """The name tokens of the package path."""
    if len(significant) < 2 or significant[0].text != "package":
        raise TextRefused("the policy must begin with a package line", 1, 1)
    path: list[Token] = []
    for token in significant[1:]:
        expects_name = not path or path[-1].start + len(path[-1].text) + 1 == token.start
        if token.text == "." and path and not source[token.start - 1].isspace():
            continue
        if token.kind != "name" or not expects_name or (path and source[token.start - 1] != "."):
            break
        path.append(token)
    after = significant[1 + max(2 * len(path) - 1, 0) :]
    if not path or (after and after[0].text in "[." and after[0].kind == "other"):
        raise TextRefused(
            "the package path must be plain names with dots", *place(source, significant[1].start)
        )
    if path[0].text in RESERVED:
        raise TextRefused(
            f"the package name {path[0].text} is reserved", *place(source, path[0].start)
        )
    return path


def _is_member(significant: list[Token], index: int) -> bool:
    """True for the `data` of `input.data`."""
    return index > 0 and significant[index - 1].text == "."


def _first_segment(source: str, significant: list[Token], index: int) -> str:
    """What stands directly below `data`."""
    after = significant[index + 1 : index + 3]
    if len(after) == 2 and after[0].text == "." and after[1].kind == "name":
        return after[1].text
    if len(after) == 2 and after[0].text == "[" and after[1].kind == "string":
        segment = after[1].text[1:-1]
        if _SEGMENT.fullmatch(segment):
            return segment
    line, column = place(source, significant[index].start)
    raise TextRefused("data may be used only with a fixed first name below it", line, column)


def _apply(source: str, edits: list[tuple[int, str]]) -> str:
    for offset, text in sorted(edits, reverse=True):
        source = source[:offset] + text + source[offset:]
    return source
