"""Nothing un-noised leaves: every byte a researcher sees, with and without one person.

Ids, clock and the mechanism's randomness are equal on both sides, and so is the data set's digest,
which is a keyed hash (`jobs.ingest`): to somebody without the key it is randomness, too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest

from policies.embedded import EmbeddedEngine
from tests.audit import views
from tests.audit.bench import PEOPLE, PER_ROUND, Bench, Keys, World, nobody, people
from tests.audit.views import Seen
from tests.support import market as markets
from worker.sampling import draw_cohort
from worker.zygote import Zygote

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

CLIP = 0.7
ALGORITHM = {
    "name": "dp_fedavg",
    "clip_norm": CLIP,
    "client_optimizer": {"name": "sgd", "learning_rate": 1.0},
}
RESULTS = {
    "after GET /v1/jobs/{job_id}/result",
    "after GET own as safetensors",
}
FIGURES = {
    "after GET /v1/jobs",
    "after GET /v1/jobs/{job_id}",
    "after GET /v1/jobs/{job_id}/metrics",
    "after POST /v1/jobs",
}
RECEIPT = "after GET /v1/jobs/{job_id}/receipt"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    zygote = Zygote()
    with markets.engine(processes=1) as engine:
        yield _bench(engine, tmp_path_factory, zygote)
    zygote.close()


def _bench(engine: EmbeddedEngine, folders: pytest.TempPathFactory, zygote: Zygote) -> Bench:
    return Bench(engine, folders.mktemp("views"), zygote, public=True)


def _drawn(keys: Keys, rounds: int, per_round: int = PER_ROUND) -> list[np.ndarray]:
    """The cohorts these keys will give."""
    sources = (keys.derive(f"round/{number}/cohort") for number in range(1, rounds + 1))
    return [draw_cohort("poisson", PEOPLE, per_round, source) for source in sources]


def _see(bench: Bench, world: World, keys: Keys | None = None, **changes: object) -> Seen:
    return views.look(bench, world, keys or Keys(), **{"algorithm": ALGORITHM} | changes)


def test_only_the_model_differs_and_by_no_more_than_one_person_may(bench: Bench) -> None:
    someone = int(_drawn(Keys(), 1)[0][3])
    world = people().changed(someone, "huge", lambda x: x * 1e9)
    here, gone = _see(bench, world), _see(bench, world.without(someone))

    _assert_complete(here)
    assert RESULTS <= here.differing(gone) <= RESULTS | FIGURES | {RECEIPT}
    assert _weightless(here.pages[RECEIPT]) == _weightless(gone.pages[RECEIPT])
    for name in FIGURES:
        assert _figureless(here.pages[name]) == _figureless(gone.pages[name])
    models = [_model(seen) for seen in (here, gone)]
    moved = np.linalg.norm(models[0] - models[1]) * PER_ROUND
    assert 0.99 * CLIP < moved <= CLIP * (1 + 2.0**-18) + PER_ROUND * 1e-6


def test_a_person_who_breaks_training_is_seen_as_little_as_one_who_is_absent(
    bench: Bench,
) -> None:
    """The sums are equal, so everything is, the model's bytes included."""
    drawn = _drawn(Keys(), 3)
    someone = int(drawn[0][0])
    world = people().changed(someone, "broken", lambda x: x * np.nan)
    here, gone = (_see(bench, each, rounds=3) for each in (world, world.without(someone)))
    assert here.run is not None
    assert here.run.completed
    assert here.differing(gone) == set()


def test_a_person_who_was_not_drawn_is_not_seen(bench: Bench) -> None:
    drawn = np.unique(np.concatenate(_drawn(Keys(), 2)))
    someone = int(np.setdiff1d(np.arange(PEOPLE), drawn)[0])
    world = people().changed(someone, "unseen", lambda x: x * 1e9)
    here, gone = (_see(bench, each, rounds=2) for each in (world, world.without(someone)))
    assert here.differing(gone) == set()


def test_a_round_with_an_empty_cohort_looks_like_any(bench: Bench) -> None:
    keys = next(
        each for each in map(Keys, range(1, 200)) if not len(_drawn(each, 1, per_round=2)[0])
    )
    empty, silent = (
        _see(bench, world, keys, clients_per_round=2) for world in (people(), nobody())
    )
    assert empty.run is not None
    assert (empty.run.completed, [len(c) for c in empty.run.cohorts]) == (True, [0])
    assert empty.differing(silent) == set()
    # Beside a round with people in it only numbers of the model differ, not what can be asked.
    ordinary = _see(bench, people(), Keys(1), clients_per_round=2)
    assert empty.differing(ordinary) <= RESULTS | FIGURES | {RECEIPT}


def _assert_complete(seen: Seen) -> None:
    """A guard of the guard: the job ran, and pages with and without content were read."""
    codes = {name: page[:3] for name, page in seen.pages.items()}
    assert codes[RECEIPT] == codes["after GET /v1/jobs/{job_id}/events"] == b"200"
    assert codes["round 1 GET /v1/jobs/{job_id}/result"] == b"409"
    assert codes["after GET /v1/ledger"] == b"403"
    assert b"accuracy" in seen.pages["after GET /v1/jobs/{job_id}/metrics"]
    events = seen.pages["after GET /v1/jobs/{job_id}/events"]
    assert b"published" in events
    assert b"completed" in events
    # No broker and no housekeeping here, which /readyz says.
    failed = {name for name, code in codes.items() if code.startswith(b"5")}
    assert all(name.endswith("/readyz") for name in failed), failed


def _json(page: bytes) -> object:
    return json.loads(
        page[page.index(b"\n{") + 1 :] if b"\n{" in page else page[page.index(b"\n[") :]
    )


def _weightless(page: bytes) -> object:
    body = _json(page)
    assert isinstance(body, dict)
    return body | {"model": body["model"] | {"sha256": ""}}


def _figureless(page: bytes) -> object:
    """The same without the values of metrics; their names must agree."""

    def blind(value: object) -> object:
        if isinstance(value, dict):
            return {
                key: sorted(each) if key == "metrics" and isinstance(each, dict) else blind(each)
                for key, each in value.items()
            }
        return [blind(each) for each in value] if isinstance(value, list) else value

    return blind(_json(page))


def _model(seen: Seen) -> np.ndarray:
    page = seen.pages["after GET /v1/jobs/{job_id}/result"]
    with np.load(io.BytesIO(page[page.index(b"PK") :]), allow_pickle=False) as arrays:
        return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)
