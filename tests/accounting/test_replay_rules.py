"""Every rule of the replay broken once: what is said, at which entry, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from privacy_gateway import gdp, rdp
from privacy_gateway.prices import MAX_COUNT, Prices
from privacy_gateway.replay import MAX_EPSILON_NANO, MAX_ROUNDS, Population
from tests.accounting.leaves import (
    EIGHT,
    ORDINARY,
    PUBLIC,
    SECOND,
    TREE,
    WEIGHTS,
    Leaf,
    Writer,
    gaussian,
    pay,
    replayed,
    terms_of,
)

Forge = Callable[[Leaf], object]


def trained() -> Writer:
    """Two people keep it; quotas, a job of a project in two attempts, a stop, another job."""
    w = Writer(second_person=True)
    w.write("quota", researcher="usr_r", quota=terms_of(EIGHT // 2))
    w.write("quota", project="study", quota=terms_of(EIGHT // 2))
    w.reserve("job_1", 10, project="study")
    w.charge("job_1", 1, 3)
    w.charge("job_1", 1, 2, attempt=2, fence=2)
    w.freeze(frozen=True)
    w.write("deny", reason="no room")
    w.freeze(frozen=False)
    w.grant(**SECOND)
    w.write("note", second_person=False, **SECOND)
    w.grant()
    w.void("job_1", 5, 5)
    w.reserve("job_2", 7, researcher="usr_s")
    w.charge("job_2", 1, 7)
    w.void("job_2", 0, 7)
    return w


def apart() -> Writer:
    """Two blocks; a job of the north, one of everybody."""
    w = Writer()
    w.open_block("north", 400)
    w.open_block("south", 300)
    w.reserve("job_n", 9, ORDINARY | {"clients": 400}, block="north")
    w.reserve("job_1", 4)
    w.charge("job_n", 1, 3)
    w.charge("job_1", 1, 3)
    w.void("job_n", 6, 3)
    w.void("job_1", 1, 3)
    return w


def exact() -> Writer:
    """A budget that adds up Gaussians, and what is free."""
    w = Writer(terms_of(weights=list(gdp.WEIGHTS), filter="gdp"))
    w.write("quota", researcher="usr_r", quota=terms_of(weights=list(gdp.WEIGHTS)))
    w.reserve("job_0", 3, PUBLIC)
    w.reserve("job_1", 2, gaussian(30.0))
    w.charge("job_1", 1, 2)
    return w


def tree() -> Writer:
    """A job whose noise runs through all of it."""
    w = Writer()
    w.reserve("job_1", 2, TREE)
    w.charge("job_1", 1, 2)
    return w


def put(**members: Any) -> Forge:
    return lambda leaf: leaf.update(members)


def within(member: str, **members: Any) -> Forge:
    return lambda leaf: leaf[member].update(members)


def paid(rounds: int, **members: Any) -> Forge:
    def change(leaf: Leaf) -> None:
        pay(leaf, rounds)
        leaf.update(members)

    return change


def without(*names: str) -> Forge:
    def change(leaf: Leaf) -> None:
        for name in names:
            del leaf[name]

    return change


def repriced(change: int, order: int = gdp.INDEX) -> Forge:
    """A price a little beside the right one, which a price may be."""

    def forge(leaf: Leaf) -> None:
        leaf["per_round"][order] += change
        pay(leaf, leaf["rounds"])

    return forge


def weights(*, first: int) -> list[int]:
    return [first, *WEIGHTS[1:]]


ROOM = rdp.FEMTO - sum(WEIGHTS[1:])
GDP = list(gdp.WEIGHTS)
ELSE = dict.fromkeys(("charged", "reserved"), [0] * 15 + [1])

# A history, which entry of it is forged, how, the kinds of what is found there, and its words.
FORGED: list[tuple[Callable[[], Writer], int, Forge, str, str]] = [
    (trained, 0, put(seq=2), "rule", "a chain begins with its opening entry"),
    (trained, 0, put(kind="note"), "rule", "a chain begins with its opening entry"),
    (trained, 1, put(kind="open"), "rule", "a chain begins with its opening entry"),
    (trained, 7, put(kind="refund"), "rule", "wrong type: KeyError('refund')"),
    (trained, 7, without("balance"), "rule", "wrong type: KeyError('balance')"),
    (trained, 0, put(clients=0), "rule", "clients is not a whole number"),
    (trained, 0, within("terms", epsilon_nano=0), "rule", "'epsilon_nano is not a whole"),
    (trained, 0, within("terms", orders=["2"]), "terms", "the house grid"),
    (trained, 0, within("terms", weights=weights(first=ROOM + 1)), "terms", "not shares of one"),
    (trained, 0, within("terms", weights=weights(first=0)), "rule", "wrong type"),
    (trained, 0, within("terms", filter="gdp"), "terms", "of the filter that is named"),
    (exact, 0, within("terms", filter="rdp"), "terms", "of the filter that is named"),
    (exact, 0, lambda leaf: leaf["terms"].pop("filter"), "terms", "of the filter that is named"),
    (trained, 0, within("terms", delta="0.00010001"), "terms", "δ = 0.00010001 is outside"),
    (trained, 0, within("terms", delta="9.9e-13"), "terms", "bounds for 1000 clients"),
    (trained, 1, lambda leaf: leaf["quota"].update(epsilon_nano=0), "rule", "'epsilon_nano is not"),
    (trained, 1, within("quota", weights=GDP), "terms", "the quota's weights"),
    (trained, 2, within("quota", weights=weights(first=ROOM + 1)), "terms", "the quota's weights"),
    (exact, 1, within("quota", weights=WEIGHTS), "terms", "the quota's weights"),
    (trained, 3, paid(0), "rule", "'rounds is not a whole number"),
    (trained, 3, paid(MAX_ROUNDS + 1), "rule", "'rounds is not a whole number"),
    (trained, 3, repriced(10**6), "price balance", "recomputed"),
    (apart, 6, put(job="job_n"), "rule", "job job_n reserved twice"),
    (trained, 4, put(job="job_0"), "unreserved balance balance", "job job_0 was charged without a"),
    (trained, 4, put(mechanism_digest="0"), "price", "job job_1 pays another price"),
    (trained, 4, repriced(1), "price balance balance", "job job_1 pays another price"),
    (trained, 4, within("mechanism", clients=True), "price", "job job_1 runs another mechanism"),
    (trained, 4, put(researcher="usr_s"), "rule", "job job_1 belongs to another researcher"),
    (trained, 4, without("project"), "rule", "job job_1 belongs to another project"),
    (trained, 4, within("facts", dataset="ds_x"), "rule", "job job_1 ran on another data set"),
    (trained, 4, put(round_first=0), "rule", "'round_first is not a whole number"),
    (trained, 4, put(round_first=MAX_COUNT + 1), "rule", "'round_first is not a whole number"),
    (trained, 4, put(attempt=0), "rule", "'attempt is not a whole number"),
    (trained, 4, put(attempt=MAX_COUNT + 1), "rule", "'attempt is not a whole number"),
    (trained, 4, paid(0), "rule", "'rounds is not a whole number"),
    (trained, 4, paid(MAX_COUNT + 1), "rule", "'rounds is not a whole number"),
    (trained, 4, paid(11), "rule balance balance balance", "job job_1 charged more than it had"),
    (trained, 5, put(attempt=1), "rule", "job job_1 charged a round twice in attempt 1"),
    (trained, 5, put(fence=0), "rule", "job job_1 charged by a worker that had lost it"),
    (trained, 9, put(epsilon_nano=0), "rule balance", "a grant must be positive"),
    (trained, 9, put(reason=" "), "rule", "a grant must be positive and give a reason"),
    (trained, 9, put(approved_by="usr_owner"), "rule", "without the second person"),
    (trained, 9, without("approved_by"), "rule", "without the second person"),
    (trained, 10, put(approved_by="usr_owner"), "rule", "let the second person go"),
    (trained, 10, without("approved_by"), "rule", "let the second person go"),
    (trained, 12, put(job="job_0"), "unreserved balance", "job job_0 gave back what it had not"),
    (trained, 12, paid(6), "refund balance balance", "job job_1 gave back 1 charged rounds"),
    (trained, 12, paid(4), "rule balance", "job job_1 gave back other rounds"),
    (trained, 12, put(rounds_charged=4), "rule", "job job_1 gave back other rounds"),
    (trained, 15, put(job="job_1"), "settled rule rule rule", "job job_1 was already settled"),
    (tree, 2, paid(1), "rule balance balance", "job job_1 charged a part of what"),
    (apart, 5, within("mechanism", clients=300), "price price", "is priced for 300 clients"),
    (apart, 6, within("mechanism", clients=400), "price price", "is priced for 400 clients"),
    (apart, 5, within("facts", dataset="ds_south"), "rule", "job job_n counts for a block its"),
    (apart, 5, within("block", name="south"), "price rule", "job job_n counts for a block its"),
    (apart, 5, within("block", charged=ELSE["charged"]), "balance", "charged of block north"),
    (apart, 5, within("block", reserved=ELSE["reserved"]), "balance", "reserved of block north"),
    (apart, 5, within("block", name="west"), "rule", "wrong type: KeyError('west')"),
    (apart, 7, within("block", charged=ELSE["charged"]), "balance", "charged of block north"),
    (apart, 7, within("block", name="south"), "rule", "job job_n counts for other people"),
    (apart, 7, without("block"), "rule", "wrong type: KeyError('block')"),
    (apart, 9, within("block", reserved=ELSE["reserved"]), "balance", "reserved of block north"),
    (exact, 3, within("mechanism", kind="tree_gaussian", steps=1), "price filter", "digest"),
    (exact, 3, repriced(-1), "price balance", f"below 1/z², exactly {10**12 // 900 + 1} units"),
    (trained, 4, within("balance", epsilon_nano=float(EIGHT)), "balance", "stated epsilon_nano "),
    (trained, 4, within("balance", epsilon_nano=EIGHT + 1), "balance", "stated epsilon_nano "),
    (trained, 4, within("balance", charged=ELSE["charged"]), "balance", "stated charged does"),
    (trained, 4, within("balance", reserved=ELSE["reserved"]), "balance", "stated reserved does"),
    (trained, 3, within("balance", charged=[False] * 16), "balance", "stated charged does"),
    (trained, 12, within("balance", reserved=[False] * 16), "balance", "stated reserved does"),
    (trained, 4, within("balance", frozen=True), "balance", "stated frozen does"),
    (trained, 4, within("balance", frozen=0), "balance", "stated frozen does"),
]


@pytest.mark.parametrize("history", [trained, apart, exact, tree])
def test_an_honest_history_has_no_findings(history: Callable[[], Writer]) -> None:
    leaves = history().leaves
    assert replayed(leaves)[1] == [[]] * len(leaves)


@pytest.mark.parametrize(
    ("history", "at", "forge", "kinds", "said"),
    FORGED,
    ids=[f"{h.__name__}-{at}-{said.replace(' ', '-')}" for h, at, _, _, said in FORGED],
)
def test_a_broken_rule_is_told_where_it_was_broken(
    history: Callable[[], Writer], at: int, forge: Forge, kinds: str, said: str
) -> None:
    leaves = history().leaves[: at + 1]
    forge(leaves[at])

    *before, found = replayed(leaves)[1]

    assert before == [[]] * at
    assert ([kind for kind, _ in found], said in str(found)) == (kinds.split(), True), found


def test_nothing_is_known_before_the_first_entry() -> None:
    new = Population(Prices())
    assert (new.name, new.clients, new.epsilon_nano, new.delta) == ("", 0, 0, "0")
    assert (new.frozen, new.second_person, new.rounds_charged) == (False, False, 0)
    assert (new.epsilon_spent, new.epsilon_committed) == (0.0, 0.0)
    assert (new.weights, new.limits, new.jobs, new.spent, new.shares, new.projects) == (
        (), (), {}, {}, {}, {},
    )  # fmt: skip


def test_what_a_history_adds_up_to() -> None:
    w = trained()
    known, _ = replayed(w.leaves)
    price = w.jobs["job_1"]["per_round"]
    assert (known.name, known.clients, known.delta) == ("pop_a", 1000, "1e-06")
    assert (known.epsilon_nano, known.weights) == (10 * rdp.NANO, tuple(WEIGHTS))
    assert known.limits == rdp.limits(10 * rdp.NANO, "1e-06", WEIGHTS)
    assert (known.frozen, known.second_person, known.rounds_charged) == (False, False, 12)
    assert known.charged == tuple(12 * part for part in price)
    assert known.spent == {w.jobs["job_1"]["mechanism_digest"]: (ORDINARY, 12)}
    spent = {name: share.charged[0] // price[0] for name, share in known.shares.items()}
    assert (spent, *known.projects) == ({"usr_r": 5, "usr_s": 7}, "study")
    assert known.projects["study"] == known.shares["usr_r"]
    assert known.shares["usr_r"].limits == rdp.limits(EIGHT // 2, "1e-06", WEIGHTS)
    assert known.shares["usr_s"].limits is None
    assert {share.reserved for share in known.shares.values()} == {(0,) * 16}


def test_the_odometer_is_that_of_the_worst_block() -> None:
    """Seven entries of `apart`: the north has nine rounds held, everybody four."""
    w = apart()
    known, _ = replayed(w.leaves[:7])
    assert known.epsilon_spent == 0.0
    total = [9 * a + 4 * b for a, b in zip(*(w.jobs[n]["per_round"] for n in w.jobs), strict=True)]
    least = rdp.epsilon_spent(EIGHT, known.limits, total) / rdp.NANO
    assert known.epsilon_committed == least > 0
    known, _ = replayed(w.leaves)
    assert known.epsilon_spent == known.epsilon_committed > 0
    assert (known.jobs["job_n"].block, known.jobs["job_1"].block) == ("north", None)
    assert known.people.blocks["north"].charged == tuple(w.blocks["north"][0].charged)
    assert known.charged == w.everybody.charged


@pytest.mark.parametrize(
    ("clients", "delta", "good"),
    [
        (10, "0.001", True),
        (10, "0.0011", False),
        (100, "0.001", True),
        (1000, "0.0001", True),
        (1000, "0.000101", False),
        (1000, "1e-12", True),
        (1000, "9e-13", False),
        (MAX_COUNT, "1e-10", True),
    ],
)
def test_bounds_of_delta(clients: int, delta: str, good: bool) -> None:
    found = replayed(Writer(terms_of(delta=delta), clients=clients).leaves)[1]
    assert [kind for kind, _ in found[0]] == ([] if good else ["terms"])


def opening(terms: Leaf, clients: int = 1000) -> Writer:
    return Writer(terms, clients=clients)


def granting(epsilon_nano: int) -> Writer:
    w = Writer()
    w.grant(epsilon_nano - EIGHT)
    return w


def limiting(epsilon_nano: int) -> Writer:
    w = Writer()
    w.write("quota", researcher="usr_r", quota=terms_of(epsilon_nano))
    return w


def holding(rounds: int) -> Writer:
    w = Writer()
    w.reserve("job_1", rounds, PUBLIC)
    return w


def charging(**place: int) -> Writer:
    w = Writer()
    w.reserve("job_1", 1, PUBLIC)
    w.charge("job_1", place.pop("first", 1), 1, **place)
    return w


@pytest.mark.parametrize(
    ("write", "most", "name"),
    [
        (lambda n: opening(terms_of(delta="1e-10"), n), MAX_COUNT, "clients"),
        (lambda n: opening(terms_of(n)), MAX_EPSILON_NANO, "epsilon_nano"),
        (granting, MAX_EPSILON_NANO, "epsilon_nano"),
        (limiting, MAX_EPSILON_NANO, "epsilon_nano"),
        (holding, MAX_ROUNDS, "rounds"),
        (lambda n: charging(first=n), MAX_COUNT, "round_first"),
        (lambda n: charging(attempt=n), MAX_COUNT, "attempt"),
    ],
    ids=["clients", "opening", "grant", "quota", "rounds", "first", "attempt"],
)
def test_numbers_have_a_greatest(write: Callable[[int], Writer], most: int, name: str) -> None:
    assert replayed(write(most).leaves)[1][-1] == []
    (found,) = replayed(write(most + 1).leaves)[1][-1]
    assert found[0] == "rule"
    assert f"'{name} is not a whole number from 1 to {most}'" in found[1]


def test_the_least_of_everything_is_enough() -> None:
    """A weight of one unit of δ, all δ given away, a grant of one unit."""
    w = Writer(terms_of(weights=[1, ROOM - 1 + WEIGHTS[1], *WEIGHTS[2:]]))
    w.grant(1)
    w.reserve("job_1", 1, PUBLIC)
    assert replayed(w.leaves)[1] == [[], [], []]
