"""Text as numbers, by a vocabulary the manifest makes public.

A vocabulary must never be learned from the records: which characters occur would be an answer
about them. A character outside of it is refused by row, unless the manifest names a stand-in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jobs.ingest_source import check
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

FORMATS = ("parquet", "tfrecord", "leaf")
_OUTSIDE = -1


def check_vocabulary(manifest: Manifest) -> None:
    """Refuse a vocabulary that is none, or that no reader of the format would use."""
    if manifest.vocabulary is None:
        check(manifest.unknown is None, "manifest.unknown", "needs a vocabulary")
        return
    letters = manifest.vocabulary
    check(len(set(letters)) == len(letters), "manifest.vocabulary", "has a character twice")
    check(
        manifest.format in FORMATS,
        "manifest.vocabulary",
        f"is read with the formats {', '.join(FORMATS)}; {manifest.format} holds numbers",
    )
    check(
        manifest.unknown is None or manifest.unknown in letters,
        "manifest.unknown",
        "is no character of the vocabulary",
    )


def encode(texts: Sequence[str], manifest: Manifest, field: str, row: int) -> npt.NDArray[np.int32]:
    """Numbers of texts of one length, (texts, length).

    Args:
        texts: at least one.
        manifest: gives the vocabulary.
        field: of the manifest, named in a refusal.
        row: number of the first text, counted from 1.

    Raises:
        Refused: `invalid_request` on `field`, by row: no vocabulary, texts of different lengths,
            an empty one, or a character that the vocabulary lacks.
    """
    if manifest.vocabulary is None:
        raise invalid(field, "is text; numbers are made of it by a `vocabulary`")
    length = len(texts[0])
    check(length >= 1, field, f"is empty in row {row}")
    for number, text in enumerate(texts, start=row):
        check(len(text) == length, field, f"has another length in row {number} than before")
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    coded: npt.NDArray[np.int32] = _codes(manifest)[np.minimum(points, 0x110000)].reshape(
        len(texts), length
    )
    outside = np.flatnonzero((coded == _OUTSIDE).any(axis=1))
    if len(outside):
        raise invalid(
            field, f"has a character outside of the vocabulary in row {row + int(outside[0])}"
        )
    return coded


def encode_labels(texts: Sequence[str], manifest: Manifest, row: int) -> npt.NDArray[np.int32]:
    """Numbers of texts of one character each, (texts,)."""
    coded = encode(texts, manifest, "manifest.label", row)
    check(coded.shape[1] == 1, "manifest.label", f"is not one character in row {row}")
    return coded[:, 0]


def _codes(manifest: Manifest) -> npt.NDArray[np.int32]:
    """Place in the vocabulary by code point."""
    letters = manifest.vocabulary or ""
    other = letters.index(manifest.unknown) if manifest.unknown else _OUTSIDE
    table = np.full(0x110001, other, np.int32)
    table[[ord(letter) for letter in letters]] = np.arange(len(letters))
    return table
