"""Entries of a ledger as an honest server writes them, without a server and without a database."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from privacy_gateway import canonical, gdp, rdp
from privacy_gateway.prices import Prices
from privacy_gateway.replay import Population

Leaf = dict[str, Any]
Found = list[list[tuple[str, str]]]

EIGHT: Final = 8 * rdp.NANO
DELTA: Final = "1e-06"
WEIGHTS: Final = list(rdp.default_weights(EIGHT, DELTA))
ORDINARY: Final = {
    "kind": "poisson_gaussian",
    "noise_multiplier": "1.0",
    "clients": 1000,
    "clients_per_round": 10,
    "release": "update",
}
PUBLIC: Final = {"kind": rdp.FREE, "release": "evaluation"}
SECOND: Final = {"approved_by": "usr_second"}
TREE: Final = {"kind": "tree_gaussian", "noise_multiplier": "9.0", "steps": 100}


def gaussian(noise: float) -> Leaf:
    """A release to which everybody contributes."""
    return {"kind": "gaussian", "noise_multiplier": repr(noise), "release": "update"}


def price_of(mechanism: Leaf) -> list[int]:
    """Pico-nats of one round, rounded up; of a plain Gaussian exactly."""
    if mechanism["kind"] == "gaussian":
        return list(gdp.exact_costs(float(mechanism["noise_multiplier"])))
    return [rdp.ceil_pico(nats) for nats in rdp.curve(mechanism)]


def pay(leaf: Leaf, rounds: int) -> None:
    """The entry is of so many rounds, at the price it has."""
    leaf["rounds"], leaf["cost"] = rounds, [part * rounds for part in leaf["per_round"]]


def terms_of(epsilon_nano: int = EIGHT, weights: list[int] | None = None, **terms: Any) -> Leaf:
    """Terms of a budget on the house grid."""
    orders = [f"{order:g}" for order in rdp.ORDERS]
    shares = WEIGHTS if weights is None else weights
    base = {"epsilon_nano": epsilon_nano, "delta": DELTA, "weights": shares, "orders": orders}
    return base | terms


@dataclass
class Account:
    """What everybody, or one block, was charged and has reserved."""

    charged: tuple[int, ...] = (0,) * len(rdp.ORDERS)
    reserved: tuple[int, ...] = (0,) * len(rdp.ORDERS)

    def post(self, price: list[int], charged: int, reserved: int) -> None:
        """Add rounds, or take them away."""
        self.charged = tuple(a + charged * p for a, p in zip(self.charged, price, strict=True))
        self.reserved = tuple(a + reserved * p for a, p in zip(self.reserved, price, strict=True))

    def stated(self) -> dict[str, list[int]]:
        """As an entry has it."""
        return {"charged": list(self.charged), "reserved": list(self.reserved)}


class Writer:
    """The history of one population; every entry states the balance that follows from it."""

    def __init__(self, terms: Leaf | None = None, *, clients: int = 1000, **members: Any) -> None:
        terms = terms_of() if terms is None else terms
        self.leaves: list[Leaf] = []
        self.epsilon_nano, self.frozen = terms["epsilon_nano"], False
        self.everybody = Account()
        self.blocks: dict[str, tuple[Account, Leaf]] = {}
        self.jobs: dict[str, Leaf] = {}
        self.write("open", name="pop_a", clients=clients, terms=terms, **members)

    def write(self, kind: str, **members: Any) -> None:
        """One more entry."""
        balance = self.everybody.stated() | {
            "epsilon_nano": self.epsilon_nano,
            "frozen": self.frozen,
        }
        entry = {"kind": kind, "seq": len(self.leaves) + 1, "actor": "usr_owner"}
        # A copy: a forger of one entry must not change its neighbours.
        self.leaves.append(copy.deepcopy(entry | members | {"balance": balance}))

    def grant(self, epsilon_nano: int = rdp.NANO, **members: Any) -> None:
        """More ε."""
        self.epsilon_nano += epsilon_nano
        self.write("grant", **({"epsilon_nano": epsilon_nano, "reason": "more"} | members))

    def freeze(self, *, frozen: bool) -> None:
        """Stop everything, or let it go on."""
        self.frozen = frozen
        self.write("freeze" if frozen else "unfreeze", reason="why")

    def open_block(self, name: str, clients: int) -> None:
        """A block, and the people of its one data set."""
        fact = {"block": name, "clients": clients}
        self.blocks[name] = Account(), fact
        self.write("note", opened=fact)
        digest = canonical.digest({"people": name})
        joined = {"members": clients, "joined": clients, "members_digest": digest, "key_id": "0"}
        self.write("note", enrolled=fact | joined | {"dataset": f"ds_{name}"})

    def reserve(
        self,
        job: str,
        rounds: int,
        mechanism: Leaf | None = None,
        *,
        block: str | None = None,
        project: str | None = None,
        researcher: str = "usr_r",
    ) -> None:
        """A job begins."""
        mechanism = ORDINARY if mechanism is None else mechanism
        self.jobs[job] = {
            "job": job,
            "researcher": researcher,
            "mechanism": mechanism,
            "mechanism_digest": canonical.digest(mechanism),
            "per_round": price_of(mechanism),
            "facts": {"dataset": f"ds_{block}"},
        } | ({} if project is None else {"project": project})
        self._post("reserve", job, rounds, block, charged=0, reserved=rounds)

    def charge(
        self, job: str, first: int, rounds: int, *, attempt: int = 1, fence: int = 1
    ) -> None:
        """Rounds of a job are paid."""
        whose = {"round_first": first, "attempt": attempt, "fence": fence}
        self._post("charge", job, rounds, None, charged=rounds, reserved=-rounds, **whose)

    def void(self, job: str, rounds: int, charged: int) -> None:
        """A job ends and gives back what it has left."""
        self._post("void", job, rounds, None, charged=0, reserved=-rounds, rounds_charged=charged)

    def _post(
        self,
        kind: str,
        job: str,
        rounds: int,
        block: str | None,
        *,
        charged: int,
        reserved: int,
        **members: Any,
    ) -> None:
        known = self.jobs[job]
        block = block or known.get("block", {}).get("name")
        account = self.everybody if block is None else self.blocks[block][0]
        account.post(known["per_round"], charged, reserved)
        if block is not None:
            known["block"] = {"name": block} | account.stated()
        entry = known | members
        pay(entry, rounds)
        self.write(kind, **entry)


def replayed(leaves: list[Leaf]) -> tuple[Population, Found]:
    """What a verifier knows after these entries, and what it found at each."""
    population = Population(Prices())
    return population, [population.apply(leaf) for leaf in leaves]
