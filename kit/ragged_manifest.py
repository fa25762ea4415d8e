"""What a client store says of itself: its columns, its sizes, the digest of each of its files.

The vocabulary that writer (`kit.ragged_writer`) and reader (`kit.ragged`) share. It must never hold
a row of data, or who a client is.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

FORMAT = "privacy-gateway-ragged/1"
MANIFEST = "manifest.json"
OFFSETS = "offsets.bin"
MANIFEST_BYTES = 1 << 20
ROW_ELEMENTS = 1 << 28
DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "int64", "float32", "float64")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Array: TypeAlias = npt.NDArray[Any]
Indices: TypeAlias = npt.NDArray[np.int64]


class StoreDamaged(ValueError):
    """A store whose files do not agree with its manifest; carries no row of data."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a store.

    Attributes:
        name: letters, digits, `_` and `-`, at most 64; also the stem of the file's name.
        dtype: one of DTYPES.
        shape: shape of one row, `()` for a scalar.
        scale: public constant that a reader multiplies rows with after the cast to float
            (1/255 keeps images in one byte per pixel); 1.0 means "as stored".
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "offsets":
            raise ValueError(
                f"Expected a column name of letters, digits, _ and -, not {self.name!r}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"Expected {self.name} dtype in {DTYPES}, not {self.dtype!r}")
        if len(self.shape) > 4 or any(side < 1 for side in self.shape):
            raise ValueError(f"Expected {self.name} shape of at most 4 positive sides")
        if self.row_elements > ROW_ELEMENTS or not np.isfinite(self.scale) or self.scale <= 0:
            raise ValueError(f"Expected {self.name} with a bounded row and a positive finite scale")

    @property
    def file(self) -> str:
        """Name of the column's file inside the store."""
        return f"{self.name}.bin"

    @property
    def row_elements(self) -> int:
        """Numbers in one row."""
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.row_elements * np.dtype(self.dtype).itemsize

    def canonical(self) -> dict[str, object]:
        """The column as it stands in the manifest."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "scale": repr(self.scale),
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store holds, and the SHA-256 of each of its files."""

    clients: int
    examples: int
    columns: tuple[Column, ...]
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical manifest; names the dataset version's content."""
        return hashlib.sha256(dump(self.canonical())).hexdigest()

    def canonical(self) -> dict[str, object]:
        """The manifest as plain JSON values."""
        return {
            "format": FORMAT,
            "clients": self.clients,
            "examples": self.examples,
            "columns": [column.canonical() for column in self.columns],
            "files": dict(sorted(self.files.items())),
        }

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a manifest strictly; StoreDamaged when it is not one."""
        try:
            columns = tuple(
                Column(c["name"], c["dtype"], tuple(map(int, c["shape"])), float(c["scale"]))
                for c in value["columns"]
            )
            files = {str(name): str(digest) for name, digest in value["files"].items()}
            manifest = cls(int(value["clients"]), int(value["examples"]), columns, files)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreDamaged("the store's manifest cannot be read") from error
        if value.get("format") != FORMAT or set(files) != manifest.expected_files():
            raise StoreDamaged(f"Expected a {FORMAT} manifest that lists every file")
        return manifest

    def expected_files(self) -> set[str]:
        """Names of the files the columns call for."""
        return {OFFSETS, *(column.file for column in self.columns)}

    def column(self, name: str) -> Column:
        """The column of that name; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def dump(value: object) -> bytes:
    """Canonical JSON of a manifest (strings, integers, lists only)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
