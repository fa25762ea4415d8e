"""What a population has spent and holds, as one frozen value.

A balance is read from its row or made by a verb; it never changes. This module must never read or
write a table: `accounting.posting` alone moves balances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accounting import filter as admission
from accounting.budget import Terms
from accounting.errors import invalid
from accounting.mechanism import Mechanism
from privacy_gateway import rdp


@dataclass(frozen=True, slots=True)
class Balance:
    """A population's budget after its head entry. Vectors in pico-nats, one number an order.

    What was charged to one of its `blocks` alone is not in here; `accounting.blocks` adds it.
    """

    population_id: str
    terms: Terms
    charged: tuple[int, ...]
    reserved: tuple[int, ...]
    version: int
    frozen: bool
    head_seq: int
    head_hash: str
    clients: int
    name: str
    privacy_unit: str
    owner_id: str
    second_person: bool = False
    blocks: int = 0

    @property
    def limits(self) -> tuple[int, ...]:
        """B(a), negative where disabled."""
        return self.terms.limits

    @property
    def epsilon(self) -> float:
        """The budget's ε."""
        return self.terms.epsilon

    @property
    def delta(self) -> float:
        """The budget's δ."""
        return self.terms.delta_float

    @property
    def epsilon_spent(self) -> float:
        """Odometer over what has been charged."""
        return admission.epsilon_spent_nano(self.terms, self.charged) / rdp.NANO

    @property
    def epsilon_committed(self) -> float:
        """Odometer over charged and reserved together."""
        total = admission.add(self.charged, self.reserved)
        return admission.epsilon_spent_nano(self.terms, total) / rdp.NANO

    def epsilon_after(self, cost: tuple[int, ...]) -> float:
        """Odometer over charged, reserved and `cost`; above ε where it does not fit."""
        total = admission.add(admission.add(self.charged, self.reserved), cost)
        return admission.epsilon_spent_nano(self.terms, total) / rdp.NANO

    def check_mechanism(self, mechanism: Mechanism) -> None:
        """Refuse a mechanism that was priced for other people, or that this filter cannot add up.

        Raises:
            Refused: `invalid_request` on `clients`, or on the field that chose the mechanism.
        """
        if mechanism.clients not in (0, self.clients):
            raise invalid(
                "clients",
                f"the population has {self.clients} clients, the price is for {mechanism.clients}",
                value=mechanism.clients,
                limit=self.clients,
            )
        self.terms.check_mechanism(mechanism)

    def admits(self, cost: tuple[int, ...]) -> bool:
        """Whether `cost` fits now."""
        return admission.admits(self.limits, self.charged, self.reserved, cost)


def balance_of(row: Any) -> Balance:
    """A balance from its table row."""
    return Balance(
        population_id=row.id,
        terms=Terms(row.epsilon_nano, row.delta, row.weights, row.limits),
        charged=row.charged,
        reserved=row.reserved,
        version=row.version,
        frozen=row.frozen,
        head_seq=row.head_seq,
        head_hash=row.head_hash,
        clients=row.clients,
        name=row.name,
        privacy_unit=row.privacy_unit,
        owner_id=row.owner_id,
        second_person=row.second_person,
        blocks=row.blocks,
    )
