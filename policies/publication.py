"""What is loaded into an engine for one revision: library, policy, and an envelope that names it.

The envelope is a generated module beside the policy that answers the digest together with the
decision. An engine that holds another revision, or none, cannot produce it; so a stale answer is
noticed on every single decision. Both engines load exactly these texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from policies.engine import Evaluation
from policies.errors import Fault
from policies.library import Library, library
from policies.text import ENVELOPE, moved, package_of, rules_of_tests
from privacy_gateway import canonical


@dataclass(frozen=True, slots=True)
class Publication:
    """One revision, or one set of tests, as an engine loads it.

    `name` is the package path that holds it; `modules` are (id, text); `library` modules are shared
    by all publications of this installation; `queries` are paths without the leading `data.`.
    """

    name: str
    digest: str
    library: tuple[tuple[str, str], ...]
    modules: tuple[tuple[str, str], ...]
    queries: tuple[str, ...]

    @property
    def all_modules(self) -> tuple[tuple[str, str], ...]:
        """Everything an empty engine needs."""
        return self.library + self.modules


BUNDLED = "bundled"
"""Root of what a server takes from signed bundles only; it refuses to have anything put there."""


@lru_cache(maxsize=256)
def publication(source: str, prefix: str = "", shared: Library | None = None) -> Publication:
    """The publication that answers decisions of a policy text.

    Args:
        source: the owner's text.
        prefix: first segment of all packages; `BUNDLED` for signed bundles.
        shared: the library that the text is read with; the installed one by default.

    Raises:
        TextRefused: the text cannot be moved into its own package.
    """
    shared = shared or library()
    digest = canonical.digest({"library": shared.digest, "source": source})
    above = f"{prefix}." if prefix else ""
    name = f"{above}revisions.r{digest[:32]}"
    text = moved(source, name, above + shared.root)
    envelope = (
        f"package {name}.{ENVELOPE}\n\n"
        f'revision := "{digest}"\n\n'
        f"decision := data.{name}.{package_of(source)}.decision\n"
    )
    stem = name.replace(".", "/")
    modules = ((f"{stem}/policy.rego", text), (f"{stem}/envelope.rego", envelope))
    return Publication(name, digest, shared.placed(prefix), modules, (f"{name}.{ENVELOPE}",))


@lru_cache(maxsize=64)
def publication_of_tests(source: str, tests: str) -> Publication:
    """The publication that runs the `test_*` rules of a policy; one query for each rule.

    Raises:
        TextRefused: a text cannot be moved into its own package.
    """
    shared = library()
    digest = canonical.digest({"library": shared.digest, "source": source, "tests": tests})
    name = f"tests.t{digest[:32]}"
    stem = name.replace(".", "/")
    texts = [(f"{stem}/policy.rego", source)]
    if tests.strip():
        texts.append((f"{stem}/policy_test.rego", tests))
    modules = tuple((path, moved(text, name, shared.root)) for path, text in texts)
    queries = {
        f"{name}.{package_of(text)}.{rule}": None
        for _, text in texts
        for rule in rules_of_tests(text)
    }
    return Publication(name, digest, shared.placed(), modules, tuple(queries))


def opened(envelope: Any, digest: str) -> Evaluation:
    """The decision inside an envelope, if it is the asked revision's."""
    if not isinstance(envelope, dict) or envelope.get("revision") != digest:
        return Evaluation(fault=Fault.STALE_REVISION, detail="another revision answered")
    if "decision" not in envelope:
        return Evaluation(fault=Fault.UNDEFINED, detail="the policy defines no decision")
    return Evaluation(answer=envelope["decision"])


def rule_name(query: str) -> str:
    """The last name of a path: what the owner called the test."""
    return query.rpartition(".")[2]
