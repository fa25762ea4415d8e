"""What opens no person's data is free; nothing else can be, whoever claims it."""

from __future__ import annotations

import pytest

from accounting import calibrate, curve
from accounting.budget import terms_of
from accounting.mechanism import Mechanism
from accounting.plan import TrainingPlan
from accounting.report import mechanism_of, nonadaptive_epsilons
from privacy_gateway import canonical, rdp, readings
from privacy_gateway.decisions import Decisions
from privacy_gateway.errors import Refused
from privacy_gateway.prices import Prices

FREE = TrainingPlan(1000, 1, 1, 0.01, release="evaluation", public=True).mechanism
PAID = Mechanism("gaussian", 2.0)


def test_it_costs_nothing_by_both_engines_whatever_the_plan_says() -> None:
    other = TrainingPlan(10**6, 500, 1, 3.0, "fixed_size", release="evaluation", public=True)
    assert other.mechanism == FREE
    price = curve.price(FREE)
    assert price.per_round == (0,) * len(rdp.ORDERS)
    assert curve.standalone_epsilon(FREE, 1, 1e-5) == 0.0
    assert curve.standalone_epsilon_pld(FREE, 1, 1e-5) == 0.0
    assert mechanism_of(FREE.canonical()) == FREE


@pytest.mark.parametrize("release", ["update", "query"])
def test_no_other_release_is_free(release: str) -> None:
    with pytest.raises(Refused, match=release):
        Mechanism("public_data", 1.0, release=release)  # type: ignore[arg-type]


def test_beside_what_was_paid_it_changes_no_reading() -> None:
    alone = [(PAID.canonical(), 3)]
    both = [*alone, (FREE.canonical(), 5)]
    assert nonadaptive_epsilons(both, 1e-5) == pytest.approx(nonadaptive_epsilons(alone, 1e-5))
    assert readings.rdp_epsilon(both, 1e-5) == readings.rdp_epsilon(alone, 1e-5)
    assert readings.read(both, 1e-5) == readings.read(alone, 1e-5)


def test_an_exact_budget_takes_it_too() -> None:
    terms_of(10**9, 1e-5, filter="gdp").check_mechanism(FREE)


def test_an_auditor_finds_a_zero_for_anything_else() -> None:
    def leaf(mechanism: Mechanism, price: list[int]) -> dict[str, object]:
        form = mechanism.canonical()
        return {"mechanism": form, "mechanism_digest": mechanism.digest, "per_round": price}

    zeros, ones = [0] * len(rdp.ORDERS), [1] * len(rdp.ORDERS)
    hardly = Mechanism("poisson_gaussian", 1e4, 10**9, 1)
    assert list(Prices().findings(leaf(FREE, zeros))) == []
    assert list(Prices().findings(leaf(hardly, ones))) == []
    assert [kind for kind, _ in Prices().findings(leaf(hardly, zeros))] == ["price"]
    assert [kind for kind, _ in Prices().findings(leaf(FREE, [9] * 16))] == ["price"]


@pytest.mark.parametrize("release", ["update", "query", None])
def test_an_auditor_takes_no_other_release_for_free(release: str | None) -> None:
    """The server makes no such mechanism; a forged ledger may."""
    form = FREE.canonical() | {"release": release}
    if release is None:
        del form["release"]
    leaf = {
        "mechanism": form,
        "mechanism_digest": canonical.digest(form),
        "per_round": [0] * len(rdp.ORDERS),
    }
    assert [kind for kind, _ in Prices().findings(leaf)] == ["price"]


@pytest.mark.parametrize("split", ["public_test", "clients", None])
@pytest.mark.parametrize("mechanism", [FREE, PAID], ids=["free", "paid"])
def test_an_auditor_finds_a_free_entry_that_the_policy_was_asked_about_as_people(
    mechanism: Mechanism, split: str | None
) -> None:
    job = {"rounds": 1} if split is None else {"rounds": 1, "split": split}
    question = {"subject": {"id": "usr_r"}, "dataset": {"id": "dat_1"}, "job": job}
    said = {"verdict": {"outcome": "allow"}, "code": None, "fault": None}
    asked = canonical.digest(question)
    digest = canonical.digest(said | {"input": asked, "policy": "2" * 64, "library": "1" * 64})
    form = said | {
        "id": "dec_1",
        "outcome": "allow",
        "input": question,
        "input_digest": asked,
        "digest": digest,
        "revision_digest": "2" * 64,
        "library_digest": "1" * 64,
    }
    leaf = {
        "kind": "reserve",
        "job": "job_1",
        "researcher": "usr_r",
        "mechanism": mechanism.canonical(),
        "facts": {"decision_id": "dec_1", "decision_digest": digest, "dataset": "dat_1"},
    }
    found = list(Decisions([canonical.dumps(form)]).findings(leaf))
    honest = (mechanism == FREE) == (split == "public_test")
    assert [kind for kind, _ in found] == ([] if honest else ["decision"])


def test_how_many_more_has_an_end() -> None:
    class Account:
        limits = (10**12,) * 16
        charged = reserved = (0,) * 16

    price = curve.price(FREE)
    assert calibrate.how_many_more(Account(), price, 1) == calibrate.MOST_JOBS
    assert calibrate.max_rounds(Account(), FREE) > 0
