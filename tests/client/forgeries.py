"""What a dishonest operator may write into one entry of a ledger, and what a verifier calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from accounting.curve import price
from accounting.mechanism import Mechanism
from privacy_gateway import canonical, chain, rdp

Leaf = dict[str, Any]


def sealed_anew(lines: list[bytes], change: Callable[[Leaf], None]) -> list[bytes]:
    """The chain with every entry changed that `change` changes, and a head that fits."""
    made, prev = [lines[0]], chain.GENESIS
    for line in lines[1:]:
        cut = chain.read_line(line)
        if cut is None:
            head = json.loads(line)["head"]
            made.append(canonical.dumps({"head": head | {"hash": prev}}))
            continue
        leaf = json.loads(cut.leaf)
        change(leaf)
        raw = canonical.dumps(leaf)
        sealed = chain.seal(prev, raw)
        made.append(chain.write_line(sealed, raw, prev))
        prev = sealed
    return made


def cheaper(leaf: Leaf) -> None:
    leaf["per_round"] = [part // 2 for part in leaf["per_round"]]
    leaf["cost"] = [part * leaf["rounds"] for part in leaf["per_round"]]


def other_noise(leaf: Leaf) -> None:
    leaf["mechanism"]["noise_multiplier"] = "0.5"


def other_noise_and_digest(leaf: Leaf) -> None:
    other_noise(leaf)
    leaf["mechanism_digest"] = canonical.digest(leaf["mechanism"])


def spent_less(leaf: Leaf) -> None:
    leaf["balance"]["charged"] = [0] * 16


def more_budget(leaf: Leaf) -> None:
    leaf["terms"]["epsilon_nano"] *= 2


def all_delta_everywhere(leaf: Leaf) -> None:
    leaf["terms"]["weights"] = [10**15] * 16


def greater_delta(leaf: Leaf) -> None:
    leaf["terms"]["delta"] = "0.01"


def more_rounds(leaf: Leaf) -> None:
    leaf["rounds"] = 50
    leaf["cost"] = [part * 50 for part in leaf["per_round"]]


def a_round_again(leaf: Leaf) -> None:
    leaf["attempt"] = 1


def a_stale_fence(leaf: Leaf) -> None:
    leaf["fence"] = 0


def another_researcher(leaf: Leaf) -> None:
    leaf["researcher"] = "usr_x"


def a_cost_that_does_not_follow(leaf: Leaf) -> None:
    leaf["cost"][3] -= 1


def without_a_member(leaf: Leaf) -> None:
    del leaf["per_round"]


def an_unknown_kind(leaf: Leaf) -> None:
    leaf["kind"] = "refund"


def never_voided(leaf: Leaf) -> None:
    leaf["rounds"] = 0
    leaf["cost"] = [0] * 16


def a_negative_grant(leaf: Leaf) -> None:
    leaf["epsilon_nano"] = -1


def another_order(leaf: Leaf) -> None:
    leaf["terms"]["orders"][0] = "1.25"


def a_mechanism_nobody_knows(leaf: Leaf) -> None:
    leaf["mechanism"]["kind"] = "laplace"
    leaf["mechanism_digest"] = canonical.digest(leaf["mechanism"])


def frozen_from_the_start(leaf: Leaf) -> None:
    leaf["kind"] = "freeze"


def a_job_that_was_settled(leaf: Leaf) -> None:
    leaf["job"] = "job_1"


def a_tiny_quota(leaf: Leaf) -> None:
    leaf["quota"]["epsilon_nano"] = 1_500_000_000
    leaf["quota"]["weights"] = [10**15] * 16


def opened_a_second_time(leaf: Leaf) -> None:
    more = leaf["balance"]["epsilon_nano"] + 992_000_000_000
    leaf["kind"], leaf["name"], leaf["clients"] = "open", "again", 1000
    leaf["terms"] = {
        "epsilon_nano": more,
        "delta": "1e-06",
        "weights": list(rdp.default_weights(more, "1e-06", rdp.ORDERS)),
        "orders": [f"{order:g}" for order in rdp.ORDERS],
    }
    leaf["balance"]["epsilon_nano"] = more


def not_opened(leaf: Leaf) -> None:
    leaf["kind"] = "note"


def nobody_there(leaf: Leaf) -> None:
    leaf["clients"] = 0


def beyond_every_double(leaf: Leaf) -> None:
    leaf["clients"] = 10**400


def an_epsilon_beyond_every_double(leaf: Leaf) -> None:
    leaf["terms"]["epsilon_nano"] = 10**400


def priced_for_a_larger_population(leaf: Leaf) -> None:
    """q a million times too small: nearly free, and honest about its own price."""
    mechanism = Mechanism("poisson_gaussian", 1.0, 10**9, 10)
    leaf["mechanism"], leaf["mechanism_digest"] = mechanism.canonical(), mechanism.digest
    leaf["per_round"] = list(price(mechanism).per_round)
    leaf["cost"] = [part * leaf["rounds"] for part in leaf["per_round"]]


def for_nothing(leaf: Leaf) -> None:
    mechanism = Mechanism("poisson_gaussian", 1e4, 1000, 1)
    leaf["mechanism"], leaf["mechanism_digest"] = mechanism.canonical(), mechanism.digest
    leaf["per_round"] = [0] * 16
    leaf["cost"] = [0] * 16


def a_price_that_takes_all_memory(leaf: Leaf) -> None:
    leaf["mechanism"]["noise_multiplier"] = "1e-300"
    leaf["mechanism_digest"] = canonical.digest(leaf["mechanism"])


def a_reservation_that_makes_room(leaf: Leaf) -> None:
    leaf["rounds"] = -1
    leaf["cost"] = [-part for part in leaf["per_round"]]


def a_round_before_the_first(leaf: Leaf) -> None:
    leaf["round_first"] = -4


# Which entry of the population, what is done to it, and the kind of the first problem found.
FORGERIES: list[tuple[int, Callable[[Leaf], None], str]] = [
    (1, not_opened, "rule"),
    (1, nobody_there, "rule"),
    (1, beyond_every_double, "rule"),
    (1, an_epsilon_beyond_every_double, "rule"),
    (2, priced_for_a_larger_population, "price"),
    (2, for_nothing, "price"),
    (2, a_price_that_takes_all_memory, "price"),
    (2, a_reservation_that_makes_room, "rule"),
    (3, a_round_before_the_first, "rule"),
    (7, opened_a_second_time, "rule"),
    (12, opened_a_second_time, "rule"),
    (1, another_order, "terms"),
    (2, a_mechanism_nobody_knows, "price"),
    (2, frozen_from_the_start, "balance"),
    (11, a_job_that_was_settled, "rule"),
    (10, a_tiny_quota, "terms"),
    (1, more_budget, "balance"),
    (1, all_delta_everywhere, "terms"),
    (1, greater_delta, "terms"),
    (2, cheaper, "price"),
    (2, other_noise, "price"),
    (2, other_noise_and_digest, "price"),
    (2, without_a_member, "rule"),
    (3, spent_less, "balance"),
    (3, more_rounds, "rule"),
    (3, cheaper, "price"),
    (3, a_cost_that_does_not_follow, "rule"),
    (3, an_unknown_kind, "rule"),
    (4, a_round_again, "rule"),
    (4, a_stale_fence, "rule"),
    (5, another_researcher, "rule"),
    (6, never_voided, "rule"),
    (7, a_negative_grant, "rule"),
]
