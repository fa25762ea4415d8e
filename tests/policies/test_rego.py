"""The Rego that is shipped: tested on both engines and by `opa`, formatted, strict."""

from __future__ import annotations

import subprocess

import pytest

from policies.embedded import EmbeddedEngine
from policies.library import library
from policies.opa import OpaEngine
from policies.publication import Publication
from policies.text import moved_whole, package_of, rules_of_tests
from tests.support.questions import EXAMPLES, REGO, example

LIBRARY_TESTS = sorted(path.name for path in (REGO / "gateway").glob("*_test.rego"))


def library_tests(name: str) -> Publication:
    """A test file of the library, placed beside it."""
    shared = library()
    text = (REGO / "gateway" / name).read_text(encoding="utf-8")
    package = f"{shared.root}.gateway.{name.removesuffix('.rego')}"
    module = (f"library_tests/{name}", moved_whole(text, shared.root))
    queries = tuple(f"{package}.{rule}" for rule in rules_of_tests(text))
    return Publication(f"library_tests.{name}", "", shared.placed(), (module,), queries)


@pytest.mark.parametrize("name", LIBRARY_TESTS)
def test_the_library_passes_its_tests(name: str, engine: EmbeddedEngine | OpaEngine) -> None:
    report = engine.run(library_tests(name))
    assert not report.failed
    assert report.passed


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_pass_their_tests(name: str, engine: EmbeddedEngine | OpaEngine) -> None:
    source, tests = example(name)
    report = engine.test(source, tests)
    assert not report.failed
    assert report.passed


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_described(name: str) -> None:
    source, _ = example(name)
    assert package_of(source) == f"examples.{name}"
    assert "# METADATA\n# title:" in source
    rules = [line for line in source.splitlines() if line and line[0] not in "# \t}i"]
    assert len(rules) <= 15


def test_every_rule_of_the_library_is_described() -> None:
    for name, text in library().modules:
        blocks = text.split("\n\n")
        for block in blocks[1:]:
            head = block.lstrip().splitlines()[0]
            hidden = head.startswith(("_", "default _", "import "))
            assert hidden or "# description:" in block, f"{name}: {head}"


@pytest.mark.parametrize(
    "arguments", [["fmt", "--list", "--fail"], ["check", "--strict"], ["test"]], ids=lambda a: a[0]
)
def test_opa_itself_is_content(opa_binary: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [opa_binary, *arguments, str(REGO)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
