"""The committed vectors are the shared ones, and each of them is asked for by some test.

The shared file lies beside the real data sets (`PRIVACY_GATEWAY_TEST_DATA`, see CONTRIBUTING). What
is committed leaves out prose and the readings of two libraries that are not installed here; every
other member must be equal, so that nobody can soften a vector.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from accounting.curve import price
from accounting.mechanism import Mechanism
from privacy_gateway import rdp
from tests.accounting.support import VECTORS
from tests.support.servers import REPOSITORY

# Groups and members about the file itself, and prose.
ABOUT = {"schema", "generated", "libraries", "properties"}
PROSE = {"note", "kind", "neighbouring", "source", "order"}
# Readings of Opacus 1.6.0 and autodp 0.2.3.1, which nothing here can compute again.
ABSENT = {"eps_rdp_opacus_1_6_0", "eps_rdp_autodp_0_2_3_1"}
PROJECTED = ("core_cases", "published")


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    """The shared vectors, or a skip that says where they should be."""
    given = os.environ.get("PRIVACY_GATEWAY_TEST_DATA")
    data = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    for folder in (data, data.parent / "vectors"):
        if (folder / "accounting.json").is_file():
            found: dict[str, Any] = json.loads((folder / "accounting.json").read_bytes())
            return found
    pytest.skip(f"no accounting.json in {data} or beside it; set PRIVACY_GATEWAY_TEST_DATA")


def committed_form(value: Any) -> Any:
    """A shared case without what is left out."""
    if isinstance(value, dict):
        kept = value.keys() - PROSE - ABSENT
        return {name: committed_form(value[name]) for name in kept}
    return value


def test_the_committed_vectors_are_the_shared_ones(shared: dict[str, Any]) -> None:
    assert VECTORS.keys() == shared.keys() - ABOUT
    for group, cases in VECTORS.items():
        if group not in PROJECTED:
            assert cases == shared[group], group
            continue
        assert [case["id"] for case in cases] == [case["id"] for case in shared[group]]
        for case, other in zip(cases, shared[group], strict=True):
            assert committed_form(case) == committed_form(other), case["id"]


def test_what_was_left_out_agrees_with_what_was_kept(shared: dict[str, Any]) -> None:
    """autodp by integer orders: never below the exact integer bound, and within a hundredth."""
    for case in shared["core_cases"]:
        kept = case["expect"]["eps_rdp_integer_orders_2_64_and_tail"]
        left_out = case["expect"]["eps_rdp_autodp_0_2_3_1"]
        assert left_out <= kept * (1 + 1e-4), case["id"]
        if case["sampling"] == "poisson":
            assert left_out == pytest.approx(kept, rel=1e-2), case["id"]


def test_every_group_of_vectors_is_read_by_a_test() -> None:
    texts = "".join(
        path.read_text(encoding="utf-8")
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        if path.name != Path(__file__).name
    )
    read = set(re.findall(r'VECTORS\["(\w+)"\]', texts))
    assert read == VECTORS.keys()


def test_every_published_vector_is_asserted_by_name_or_by_its_conversion() -> None:
    """No case is only carried along."""
    texts = "".join(
        path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests/accounting").glob("*.py")
    )
    for case in VECTORS["published"]:
        by_rule = str(case.get("conversion", "")).startswith("classic") and (
            "E400" not in case["id"]
        )
        assert by_rule or f'"{case["id"]}"' in texts, case["id"]


@pytest.mark.parametrize("noise", [1, 2])
def test_a_whole_number_of_noise_is_priced_like_the_same_float(noise: int) -> None:
    """The reject vector of `event`: an integer noise must not make a composition cheap."""
    whole = price(Mechanism("poisson_gaussian", noise, 1000, 10))
    assert whole.per_round == price(Mechanism("poisson_gaussian", float(noise), 1000, 10)).per_round
    for stored, order in zip(whole.total(100), rdp.ORDERS, strict=True):
        exact = 100 * rdp.sgm_rdp(0.01, float(noise), order) * rdp.PICO
        assert exact <= stored <= exact * (1 + 1e-9) + 101
