"""The Rego vocabulary of the gateway as the engines load it: read once, frozen, named by digest.

The digest is part of every package path, so a decision can never mix an old policy with a new
library without it being recorded. This module must never read an owner's text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from policies.text import moved_whole
from privacy_gateway import canonical

LIBRARY_DIRECTORY = Path(__file__).resolve().parent.parent / "rego" / "gateway"
_IMPORT = re.compile(r"^import data\.(gateway\.[a-z_.]+)", re.MULTILINE)
_PACKAGE = re.compile(r"^package (gateway\.[a-z_.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Library:
    """All modules as (file name, text), each after those it imports."""

    modules: tuple[tuple[str, str], ...]
    digest: str

    @property
    def root(self) -> str:
        """Package path under which the library is loaded."""
        return f"library.l{self.digest[:16]}"

    def placed(self, prefix: str = "") -> tuple[tuple[str, str], ...]:
        """The modules moved below `root`, itself below `prefix` if there is one; stable ids."""
        root = f"{prefix}.{self.root}" if prefix else self.root
        folder = f"{prefix}/library" if prefix else "library"
        return tuple(
            (f"{folder}/{self.digest[:16]}/{name}", moved_whole(text, root))
            for name, text in self.modules
        )


@cache
def library(directory: Path = LIBRARY_DIRECTORY) -> Library:
    """The library of this installation.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    paths = sorted(directory.glob("*.rego"))
    texts = {
        path.name: path.read_text(encoding="utf-8")
        for path in paths
        if not path.name.endswith("_test.rego")
    }
    if not texts:
        raise FileNotFoundError(f"no Rego library in {directory.name}")
    return library_of(texts)


def library_of(texts: Mapping[str, str]) -> Library:
    """A library of texts by file name, such as one that was archived."""
    return Library(_in_order(texts), canonical.digest(texts))


def _in_order(texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Imported modules first: an OPA server compiles after each one it is given."""
    needs = {name: set(_IMPORT.findall(text)) for name, text in texts.items()}
    gives = {name: _PACKAGE.findall(text)[0] for name, text in texts.items()}
    ordered: list[str] = []
    while len(ordered) < len(texts):
        known = {gives[name] for name in ordered}
        ready = [name for name in texts if name not in ordered and needs[name] <= known]
        if not ready:
            raise ValueError("the Rego library imports itself in a circle")
        ordered.extend(ready)
    return tuple((name, texts[name]) for name in ordered)
