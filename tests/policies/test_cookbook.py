"""The recipes of the owners' cookbook are sound policies, and both engines read them alike."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from policies.ask import ask
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.opa import OpaEngine
from tests.support.questions import EXAMPLES, question
from tests.support.servers import REPOSITORY

PAGE = (REPOSITORY / "docs/howto/owner/cookbook.md").read_text(encoding="utf-8")
FRAME, *RECIPES = re.findall(r"```rego\n(.*?)```", PAGE, re.DOTALL)
PARTS = ("deny", "approve", "oblige")
LIBRARY = (
    "answer", "approvals", "bounds", "denial", "obligations", "people", "price", "quota", "windows"
)  # fmt: skip


def policy(recipe: str) -> Revision:
    """The recipe between a head with the imports it needs and the foot."""
    imports = [name for name in LIBRARY if name == "answer" or f"{name}." in recipe]
    head = ["package mine", *(f"import data.gateway.{name}" for name in imports)]
    parts = (part if f"{part} contains" in recipe else "set()" for part in PARTS)
    foot = f"decision := answer.of({', '.join(parts)})"
    return Revision.of_text("\n\n".join(["\n".join(head), recipe.strip(), foot, ""]))


def test_the_frame_names_what_the_foot_uses() -> None:
    assert FRAME.rstrip().endswith("decision := answer.of(deny, approve, oblige)")
    imported = re.findall(r"^import data\.gateway\.(\w+)$", FRAME, re.MULTILINE)
    assert set(imported) == set(LIBRARY)
    assert all(before < after for before, after in pairwise(imported))


def test_every_example_is_listed() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == EXAMPLES


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_is_clean_and_decides_alike(
    recipe: str, embedded: EmbeddedEngine, opa: OpaEngine
) -> None:
    revision = policy(recipe)
    assert embedded.check(revision.source).items == ()
    assert opa.check(revision.source).items == ()
    for asked in (question(), question(job__purpose="other", cost__epsilon_nano=9 * 10**9)):
        ours = ask(embedded, revision, asked, deadline_seconds=60)
        theirs = ask(opa, revision, asked, deadline_seconds=60)
        assert ours.fault is None
        assert (ours.verdict, ours.fault) == (theirs.verdict, theirs.fault)
