"""Which mutants change nothing but the text of a sentence.

Tests assert codes, fields and facts, never prose, so such a mutant says nothing about them: it is
counted apart and not judged. What stands in a sentence between braces is a fact, and no wording.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path

PROSE = re.compile(r"\w\w.*\s|\s.*\w\w", re.DOTALL)


def sources(meta: Path, key: str) -> tuple[str, str]:
    """Text of the function a mutant is of, and of the mutant."""
    lines = meta.with_suffix("").read_text(encoding="utf-8").split("\n")
    spans = json.loads(meta.with_suffix(".spans").read_text(encoding="utf-8"))["spans"]
    mutant = key.rpartition(".")[2]
    original = mutant.rpartition("__mutmut_")[0] + "__mutmut_orig"
    before, after = ("\n".join(lines[slice(*spans[part][:2])]) for part in (original, mutant))
    return before, after.replace(mutant, original)


def only_wording(meta: Path, key: str) -> bool:
    """Whether a mutant differs in sentences alone."""
    before, after = (ast.parse(textwrap.dedent(text)) for text in sources(meta, key))
    return ast.dump(before) != ast.dump(after) and _same(before, after)


def _same(old: object, new: object) -> bool:
    """Whether two trees are one, sentences aside."""
    if _sentence(old) and (_is_none(new) or (isinstance(old, ast.Constant) and _sentence(new))):
        return True
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if not isinstance(old, ast.AST) or not isinstance(new, ast.AST):
        return old == new
    return type(old) is type(new) and all(
        _same(getattr(old, name, None), getattr(new, name, None)) for name in old._fields
    )


def _sentence(node: object) -> bool:
    if isinstance(node, ast.JoinedStr):
        return any(map(_sentence, node.values))
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and PROSE.search(node.value) is not None


def _is_none(node: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
