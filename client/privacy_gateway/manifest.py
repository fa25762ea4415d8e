"""What an owner says about a data file: which column means what, and what is public about it.

Everything in a manifest is public and none of it may be computed from the records: prices, mock
data and the catalogue are made of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privacy_gateway.schemas import Identifier, Name, Strict

Side = Annotated[int, Field(ge=1, le=1 << 22)]
Bound = Annotated[float, Field(ge=-1e12, le=1e12)]


class Manifest(Strict):
    """What a data file holds: which column says whose record it is, what is learned from what.

    `features` and `label` name arrays (NPZ), columns (CSV, Parquet), features of an example
    (TFRecord) or members of a user's data (LEAF). `client` names the column with the privacy unit's
    id; in LEAF it is `users`. `examples_per_client` is the public cap on one client's records.
    `feature_shape` gives one record's features another shape of as many numbers.
    `feature_range` and `label_range` are bounds of the values as they stand in the file, which are
    checked; mock data is drawn between them. `vocabulary` turns text into numbers: a character's
    number is its place in it; `unknown`, one of its characters, stands for all others.

    Public test records: `test` names a 0/1 column that marks them; `test_features` and `test_label`
    name separate arrays (NPZ); `test_fraction` makes about this share of the people public test
    people, chosen by a keyed hash of their ids, the same ones in every file of the owner. Whoever
    names some also says `test_public`: `true` makes them public, so every job tells figures of its
    model on them without noise, and evaluations of released and uploaded models on them are free;
    `false` takes them out of training all the same, and tells nothing.

    `block` names people of the population who are in no other block: jobs on the file then count
    for them alone. Their ids are compared as keyed hashes; without it, jobs count for everybody.
    `cohort` is `visible` where anybody untrusted learns who was drawn for a round (sites that see
    their own turn, say): then sampling protects nobody, and every round costs as if all took part.
    """

    name: Name
    population: Identifier
    client: Name
    features: Annotated[tuple[Name, ...], Field(strict=False, min_length=1, max_length=4096)]
    label: Name
    format: Literal["npz", "csv", "parquet", "tfrecord", "leaf"]
    classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    feature_shape: (
        Annotated[tuple[Side, ...], Field(strict=False, min_length=1, max_length=4)] | None
    ) = None
    feature_range: (
        Annotated[tuple[Bound, Bound], Field(strict=False, min_length=2, max_length=2)] | None
    ) = None
    label_range: (
        Annotated[tuple[Bound, Bound], Field(strict=False, min_length=2, max_length=2)] | None
    ) = None
    vocabulary: Annotated[str, Field(min_length=2, max_length=65_536)] | None = None
    unknown: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    test: Name | None = None
    test_features: Name | None = None
    test_label: Name | None = None
    test_fraction: Annotated[float, Field(gt=0, le=0.9)] | None = None
    test_public: bool | None = None
    examples_per_client: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    scale: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    block: Identifier | None = None
    cohort: Literal["secret", "visible"] = "secret"
    tags: Annotated[tuple[Name, ...], Field(strict=False, max_length=50)] = ()


class DatasetByPath(Strict):
    """Body of `POST /v1/datasets` where the file already lies on the server."""

    manifest: Manifest
    path: Annotated[str, Field(min_length=1, max_length=4096)]
