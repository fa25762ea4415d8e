"""Adding up ledger entries: what a population's budget went through between two of them.

Pure, and the same for the server that issues a statement and for the auditor who rebuilds it from
an export. It reads the balances that entries state and the costs that they carry, and no more of
their facts than names to group by, so that new facts and kinds of entry do not disturb it. It must
never judge whether an entry was right; `privacy_gateway.verify` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from privacy_gateway import chain, rdp

FORMAT: Final = "privacy-gateway-statement/1"
MAX_POINTS: Final = 256
UNSTATED: Final = "unstated"
NO_HASH: Final = chain.GENESIS

_ZERO: Final = (0,) * len(rdp.ORDERS)
_GROUPS: Final = ("researcher", "project", "purpose", "dataset")

Vector = Sequence[int]


@dataclass(frozen=True, slots=True)
class Sealed:
    """An entry: what was sealed, and its seal."""

    leaf: Mapping[str, Any]
    hash: str


def build(
    opened: Mapping[str, Any],
    before: Sealed | None,
    entries: Iterable[Sealed],
    period: tuple[int, int],
) -> dict[str, Any]:
    """The account of a period.

    Args:
        opened: leaf of the population's first entry, with its terms.
        before: the entry that was the head when the period began; None before the population was.
        entries: the following ones up to the period's end, in the order of `seq`.
        period: from and to, microseconds since 1970 UTC.

    Returns:
        Integers and strings only; ε in billionths, divergences in pico-nats.

    Raises:
        ValueError: an entry does not follow the one before it.
    """
    book = _Book(opened, before)
    for entry in entries:
        book.take(entry)
    return {
        "format": FORMAT,
        "population": {
            name: opened[name] for name in ("population", "name", "privacy_unit", "clients")
        }
        | {"delta": opened["terms"]["delta"]},
        "period": {"from": period[0], "to": period[1]},
        "orders": [f"{order:g}" for order in rdp.ORDERS],
        **book.account(),
    }


class _Book:
    """Adds up one population's entries; grows with jobs, not with entries."""

    def __init__(self, opened: Mapping[str, Any], before: Sealed | None) -> None:
        self._terms = opened["terms"]
        self._limits: dict[int, tuple[int, ...]] = {}
        self._last = before
        self._opening = self._state(before)
        self._kinds: dict[str, int] = {}
        self._lists: dict[str, list[dict[str, Any]]] = {"grants": [], "freezes": [], "quotas": []}
        self._refusals: dict[str, int] = {}
        self._blocks: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, _Job] = {}
        self._groups: dict[str, dict[str, _Group]] = {name: {} for name in _GROUPS}
        self._changes = 0
        self._points: list[dict[str, int]] = []

    def take(self, entry: Sealed) -> None:
        """Add one entry."""
        leaf, seq = entry.leaf, entry.leaf["seq"]
        last = 0 if self._last is None else self._last.leaf["seq"]
        if seq != last + 1:
            raise ValueError(f"entry {seq} stands after entry {last}")
        kind = leaf["kind"]
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if kind == "deny":
            code = str(leaf.get("reason", UNSTATED))
            self._refusals[code] = self._refusals.get(code, 0) + 1
        elif leaf.get("job") is not None and "cost" in leaf:
            self._take_job(leaf)
        else:
            self._take_decision(leaf)
        if isinstance(leaf.get("block"), dict):
            self._blocks[leaf["block"]["name"]] = leaf["block"]
        if self._last is None or self._last.leaf["balance"] != leaf["balance"]:
            self._take_point(entry)
        self._last = entry

    def account(self) -> dict[str, Any]:
        """Everything but who, when and by whose hand."""
        closing = self._state(self._last)
        order = self._binding(closing)
        if self._last is not None and self._points[-1:] != [point := self._point(self._last)]:
            self._points.append(point)
        total = [sum(part) for part in zip(*(j.cost for j in self._jobs.values()), strict=True)]
        of_all = total[order] if total else 0
        return {
            "opening": self._opening,
            "closing": closing,
            "binding_order": order,
            "entries": {"count": sum(self._kinds.values()), "kinds": self._kinds},
            **self._lists,
            "refusals": {"count": sum(self._refusals.values()), "codes": self._refusals},
            "charged": total or list(_ZERO),
            "blocks": [self._block(closing, self._blocks[name]) for name in sorted(self._blocks)],
            "jobs": [
                job.told(self._alone(job.cost), _share(job.cost[order], of_all))
                for job in self._jobs.values()
            ],
            **{
                f"by_{name}": [
                    found.told(key, self._alone(found.cost), _share(found.cost[order], of_all))
                    for key, found in sorted(groups.items())
                ]
                for name, groups in self._groups.items()
            },
            "burn_down": {"changes": self._changes, "points": self._points},
        }

    def _block(self, closing: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
        """What the people of a block have spent: what counts for all, and their own."""
        epsilon = closing["epsilon_nano"]
        charged = _plus(closing["charged"], block["charged"])
        reserved = _plus(closing["reserved"], block["reserved"])
        spent = self._spent(epsilon, charged)
        committed = self._spent(epsilon, _plus(charged, reserved))
        return {
            "name": block["name"],
            "spent_nano": spent,
            "reserved_nano": committed - spent,
            "remaining_nano": max(0, epsilon - committed),
            "charged": list(block["charged"]),
            "reserved": list(block["reserved"]),
        }

    def _take_job(self, leaf: Mapping[str, Any]) -> None:
        name = leaf["job"]
        facts = leaf.get("facts", {})
        keys = {group: str(leaf.get(group) or facts.get(group) or UNSTATED) for group in _GROUPS}
        job = self._jobs.setdefault(name, _Job(name, keys, str(leaf.get("mechanism_digest", ""))))
        job.entries.append(leaf["seq"])
        for group in _GROUPS:
            # A later entry of the job may know less about it than its first one.
            if job.keys[group] == UNSTATED:
                job.keys[group] = keys[group]
        rounds = leaf.get("rounds", 0)
        job.rounds[leaf["kind"]] = job.rounds.get(leaf["kind"], 0) + rounds
        if leaf["kind"] != "charge":
            return
        job.cost = _plus(job.cost, leaf["cost"])
        for group in _GROUPS:
            found = self._groups[group].setdefault(job.keys[group], _Group())
            found.jobs.add(name)
            found.rounds += rounds
            found.cost = _plus(found.cost, leaf["cost"])

    def _take_decision(self, leaf: Mapping[str, Any]) -> None:
        facts = {name: leaf[name] for name in ("seq", "at", "kind")}
        facts |= {name: str(leaf.get(name, "")) for name in ("actor", "reason")}
        if leaf["kind"] == "grant":
            self._lists["grants"].append(facts | {"epsilon_nano": leaf["epsilon_nano"]})
        elif leaf["kind"] in ("freeze", "unfreeze"):
            self._lists["freezes"].append(facts)
        elif "quota" in leaf:
            whose = str(leaf.get("researcher") or leaf.get("project") or UNSTATED)
            terms = leaf["quota"]
            nano = terms.get("epsilon_nano", 0) if isinstance(terms, dict) else 0
            self._lists["quotas"].append(facts | {"of": whose, "epsilon_nano": nano})

    def _take_point(self, entry: Sealed) -> None:
        """Every change of the balance; of very many, every second, fourth, … one."""
        stride = 1
        while self._changes >= MAX_POINTS * stride:
            stride *= 2
        if self._changes == MAX_POINTS * stride // 2 and stride > 1:
            self._points = self._points[::2]
        if self._changes % stride == 0:
            self._points.append(self._point(entry))
        self._changes += 1

    def _point(self, entry: Sealed) -> dict[str, int]:
        state = self._state(entry)
        kept = ("epsilon_nano", "spent_nano", "reserved_nano")
        return {"seq": state["seq"], "at": entry.leaf["at"]} | {name: state[name] for name in kept}

    def _state(self, entry: Sealed | None) -> dict[str, Any]:
        """Balance after an entry; all zero before the first."""
        if entry is None:
            numbers = ("epsilon_nano", "spent_nano", "reserved_nano", "remaining_nano")
            empty: dict[str, Any] = {"seq": 0, "hash": NO_HASH, "frozen": False}
            vectors = {name: list(_ZERO) for name in ("charged", "reserved")}
            return empty | dict.fromkeys(numbers, 0) | vectors
        left = entry.leaf["balance"]
        epsilon, charged, reserved = left["epsilon_nano"], left["charged"], left["reserved"]
        spent = self._spent(epsilon, charged)
        committed = self._spent(epsilon, _plus(charged, reserved))
        return {
            "seq": entry.leaf["seq"],
            "hash": entry.hash,
            "epsilon_nano": epsilon,
            "spent_nano": spent,
            "reserved_nano": committed - spent,
            "remaining_nano": max(0, epsilon - committed),
            "charged": list(charged),
            "reserved": list(reserved),
            "frozen": left["frozen"],
        }

    def _spent(self, epsilon_nano: int, spent: Vector) -> int:
        """The odometer, by the filter that the population was opened with."""
        if self._terms.get("filter", "rdp") == "gdp":
            from privacy_gateway import gdp

            return gdp.epsilon_spent(self._terms["delta"], tuple(spent))
        return rdp.epsilon_spent(epsilon_nano, self._bounds(epsilon_nano), spent)

    def _bounds(self, epsilon_nano: int) -> tuple[int, ...]:
        if epsilon_nano not in self._limits:
            self._limits[epsilon_nano] = _limits(epsilon_nano, self._terms)
        return self._limits[epsilon_nano]

    def _alone(self, cost: Vector) -> int:
        """ε that these charges would come to in an untouched budget; such ε do not add up."""
        epsilon = 0 if self._last is None else self._last.leaf["balance"]["epsilon_nano"]
        return self._spent(epsilon, cost) if any(cost) else 0

    def _binding(self, closing: Mapping[str, Any]) -> int:
        """Which order decides what is left; costs at it do add up."""
        if self._last is None:
            return 0
        room = [
            bound - spent if bound >= 0 else -rdp.INT64_MAX
            for bound, spent in zip(
                self._bounds(closing["epsilon_nano"]), closing["charged"], strict=True
            )
        ]
        return room.index(max(room))


@dataclass(slots=True)
class _Job:
    name: str
    keys: dict[str, str]
    digest: str
    rounds: dict[str, int] = field(default_factory=dict)
    cost: Vector = _ZERO
    entries: list[int] = field(default_factory=list)

    def told(self, alone: int, share: int) -> dict[str, Any]:
        """The row of the statement."""
        return {
            "job": self.name,
            **self.keys,
            "mechanism_digest": self.digest,
            "rounds_reserved": self.rounds.get("reserve", 0),
            "rounds_charged": self.rounds.get("charge", 0),
            "rounds_given_back": self.rounds.get("void", 0),
            "cost": list(self.cost),
            "alone_nano": alone,
            "share_ppm": share,
            "entries": self.entries,
        }


@dataclass(slots=True)
class _Group:
    jobs: set[str] = field(default_factory=set)
    rounds: int = 0
    cost: Vector = _ZERO

    def told(self, key: str, alone: int, share: int) -> dict[str, Any]:
        """The row of the statement."""
        return {
            "name": key,
            "jobs": len(self.jobs),
            "rounds_charged": self.rounds,
            "cost": list(self.cost),
            "alone_nano": alone,
            "share_ppm": share,
        }


def _limits(epsilon_nano: int, terms: Mapping[str, Any]) -> tuple[int, ...]:
    if terms.get("filter", "rdp") == "gdp":
        from privacy_gateway import gdp

        return gdp.limits(epsilon_nano, terms["delta"])
    return rdp.limits(epsilon_nano, terms["delta"], terms["weights"])


def _plus(first: Vector, second: Vector) -> Vector:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _share(part: int, whole: int) -> int:
    """Parts per million, rounded down."""
    return part * 1_000_000 // whole if whole else 0
