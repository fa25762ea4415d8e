"""The catalogue as a researcher sees it: data sets and pointers at their arrays, never content.

A pointer is a name for something that stays where it is; nothing in this module may download it.
Mock records are made by the gateway from the schema and are about nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from privacy_gateway import notebook, weights
from privacy_gateway.errors import invalid
from privacy_gateway.views import DatasetView

if TYPE_CHECKING:
    from privacy_gateway.connection import Connection
    from privacy_gateway.weights import Array


@dataclass(frozen=True, slots=True)
class AssetId:
    """Where an asset lies: an opaque, stable identifier."""

    value: str

    def to_string(self) -> str:
        """The identifier as text."""
        return self.value

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Asset:
    """One array of a data set, on the owner's side."""

    id_at_location: AssetId
    name: str
    dtype: str
    shape: tuple[int, ...]
    dataset_id: str

    @property
    def id(self) -> str:
        """The identifier as text."""
        return self.id_at_location.value

    def __repr__(self) -> str:
        return f"Asset({self.name!r}, {self.dtype}{list(self.shape)}, id={self.id_at_location})"

    def _repr_html_(self) -> str:
        facts = {"id": self.id_at_location, "type": self.dtype, "shape of one": list(self.shape)}
        return notebook.html_facts(f"Asset {self.name}", facts)


@dataclass(frozen=True, slots=True, repr=False)
class Mock:
    """Made-up records of a data set's shape, made by the gateway from the schema alone.

    Attributes:
        features: (rows, …), as a model gets them: already multiplied with the public scale.
        label: (rows,).
        client: (rows,), whose record it is, from 0, rising.
    """

    features: Array
    label: Array
    client: Array

    @classmethod
    def load(cls, data: bytes) -> Mock:
        """From the gateway's NPZ; ImportError without NumPy."""
        arrays = weights.load(data)
        features, scale = arrays["features"], float(arrays["scale"])
        if scale != 1.0:
            features = (features * scale).astype("float32")
        return cls(features, arrays["label"], arrays["client"])

    @property
    def clients(self) -> int:
        """Number of made-up people."""
        return int(self.client[-1]) + 1

    def __repr__(self) -> str:
        shape = list(self.features.shape[1:])
        kind = self.features.dtype
        return f"Mock({len(self.label)} records of {self.clients} clients, {kind}{shape})"


class Dataset:
    """One version of a data set: its public facts, and its assets by name."""

    def __init__(self, view: DatasetView, connection: Connection | None = None) -> None:
        self.view = view
        self._connection = connection
        self.assets = tuple(
            Asset(AssetId(a["id"]), a["name"], a["dtype"], tuple(a["shape"]), view.id)
            for a in view.assets
        )

    @property
    def id(self) -> str:
        """Identifier used in a job."""
        return self.view.id

    @property
    def name(self) -> str:
        """Name the owner gave it."""
        return self.view.name

    @property
    def population(self) -> str:
        """Id of the people it is about, whose budget every job on it spends."""
        return self.view.population

    @property
    def clients(self) -> int:
        """Public number of people in it."""
        return self.view.clients

    @property
    def features(self) -> Asset:
        """What a model learns from."""
        return self.assets[0]

    @property
    def label(self) -> Asset:
        """What a model learns to tell."""
        return self.assets[1]

    def mock(self, *, clients: int = 10, examples: int = 20) -> Mock:
        """Made-up records of the same shape, to try code on; free, and about nobody.

        Args:
            clients: made-up people.
            examples: most records of one of them.

        Raises:
            Refused: `not_found`, `too_large`, `invalid_request`.
            ImportError: NumPy is not installed (`pip install privacy-gateway[weights]`).
        """
        return Mock.load(self.mock_archive(clients=clients, examples=examples))

    def mock_archive(self, *, clients: int = 10, examples: int = 20) -> bytes:
        """The same as the bytes of an NPZ with `features`, `label`, `client` and `scale`."""
        if self._connection is None:
            raise invalid("dataset", "was not read from a gateway; use domain.dataset(id)")
        path = f"/v1/datasets/{self.id}/mock"
        with self._connection.stream(path, clients=clients, examples=examples) as blocks:
            return weights.collect(blocks)

    def __getitem__(self, name: str) -> Asset:
        for asset in self.assets:
            if asset.name == name:
                return asset
        known = ", ".join(repr(asset.name) for asset in self.assets)
        raise KeyError(f"{self.name} has no asset {name!r}; it has {known}")

    def __repr__(self) -> str:
        assets = ", ".join(repr(asset.name) for asset in self.assets)
        return f"Dataset({self.name!r} v{self.view.version}, {self.clients} clients, [{assets}])"

    def _test_split(self) -> str:
        return "public: evaluations are free" if self.view.test_public else "not public"

    def _repr_html_(self) -> str:
        facts = {
            "id": self.id,
            "clients": f"{self.clients} × {self.view.privacy_unit}",
            "assets": [f"{a.name} {a.dtype}{list(a.shape)}" for a in self.assets],
            "classes": self.view.classes,
            "test examples": f"{self.view.test_examples}, {self._test_split()}",
            "policy revision": self.view.policy,
        }
        return notebook.html_facts(f"{self.name} v{self.view.version}", facts)


class Datasets(Sequence[Dataset]):
    """Data sets an account may name in a job; index by position, id or name (newest version)."""

    def __init__(self, views: Sequence[DatasetView], connection: Connection | None = None) -> None:
        self._items = [Dataset(view, connection) for view in views]

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, key: int | str) -> Dataset: ...
    @overload
    def __getitem__(self, key: slice) -> list[Dataset]: ...
    def __getitem__(self, key: int | str | slice) -> Dataset | list[Dataset]:
        if not isinstance(key, str):
            return self._items[key]
        for item in self._items:
            if item.id == key:
                return item
        named = [item for item in self._items if item.name == key]
        if not named:
            raise KeyError(f"no data set {key!r}; there are {[item.name for item in self._items]}")
        return max(named, key=lambda item: item.view.version)

    def __iter__(self) -> Iterator[Dataset]:
        return iter(self._items)

    def of_asset(self, asset: Asset | AssetId | str, field: str) -> tuple[Dataset, Asset]:
        """The data set that holds an asset.

        Raises:
            Refused: `invalid_request` naming `field` when no visible data set has it.
        """
        wanted = str(asset.id_at_location if isinstance(asset, Asset) else asset)
        for item in self._items:
            for candidate in item.assets:
                if candidate.id_at_location.value == wanted:
                    return item, candidate
        raise invalid(field, "is no asset of a data set you can see", value=wanted[:100])

    def _table(self) -> tuple[list[str], list[list[object]]]:
        rows: list[list[object]] = [
            [at, item.name, item.view.version, item.clients, [a.name for a in item.assets], item.id]
            for at, item in enumerate(self._items)
        ]
        return ["", "name", "version", "clients", "assets", "id"], rows

    def __repr__(self) -> str:
        return notebook.plain_table(*self._table()) if self._items else "no data sets"

    def _repr_html_(self) -> str:
        return notebook.html_table(*self._table())
