"""The flat-ragged engine: one graph per slice, an outer loop over clients, integers out.

Each client trains from the round's weights by itself. Its update, whatever it is, becomes zero if
any number of it is not finite, is scaled to global L2 norm ≤ C over all weights together, and is
truncated to int32 on the grid C/2²⁰. Only sums of such integers leave this module, so a client's
influence is at most C by construction, the sum does not depend on the order of clients or on the
number of threads, and adding or removing one client changes it by one clipped vector.

Norms are taken in float64 and a margin of 2⁻³⁰ is kept, because float32 arithmetic overshoots C;
truncation towards zero can only shrink. Nothing per client (norm, loss, count) is ever kept.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kit.ragged import RaggedStore
from worker.task import GRID, HALF, TrainingTask
from worker.training import clients as cohort_clients
from worker.training.algorithms.registry import ClientRows, LocalUpdate
from worker.training.clients import Slice

_MARGIN = 1.0 - 2.0**-30
# Half a megabyte as doubles, a quarter of a core's own cache.
_PIECE = 1 << 16

Tensors: TypeAlias = list[Any]
Indices: TypeAlias = npt.NDArray[np.int64]
Sums: TypeAlias = list[npt.NDArray[np.int64]]
Arrays: TypeAlias = Sequence[npt.NDArray[np.float32]]


class FederatedRound:
    """A task's engine on one store; built once, then asked once a round."""

    def __init__(
        self,
        task: TrainingTask,
        store: RaggedStore,
        local: LocalUpdate,
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        """Trace nothing yet.

        Args:
            task: clip norm, columns, shards and seeds.
            store: the clients.
            local: the algorithm's update of one client.
            shapes: shapes of the weights; the sums have the task's `sum_shapes`.
        """
        self._task = task
        self._store = store
        self._weights = [tuple(shape) for shape in shapes]
        self._sums = [*task.sum_shapes, *([(1,)] if task.count_unclipped else [])]
        self._slice_sum = slice_sum(
            local, self._signature(), self._sums, counting=task.count_unclipped
        )
        self._pool = ThreadPoolExecutor(task.shards) if task.shards > 1 else None
        self._prepared = False

    def sum_of(
        self,
        round_number: int,
        cohort: Indices,
        weights: Arrays,
        *,
        clip_norm: float | None = None,
    ) -> Sums:
        """Sum of the cohort's clipped updates on the grid C/2²⁰, int64, per weight array.

        Where the task counts clients within C, an array (1,) of their ±½ follows, on that grid.

        Args:
            round_number: seeds shuffling and dropout.
            cohort: positions of the clients; may be empty.
            weights: float32, Keras order.
            clip_norm: C of this round where it adapts; the task's otherwise.
        """
        self.prepare()
        norm = tf.constant(clip_norm or self._task.clip_norm, tf.float64)
        tensors = [tf.constant(w, tf.float32) for w in weights]
        shards = _shards(cohort, self._store.sizes(cohort), self._task.shards)

        def run(shard: Indices) -> Sums:
            return _add_up(
                self._sums, (self._run(s, tensors, norm) for s in self._cut(shard, round_number))
            )

        partial = map(run, shards) if self._pool is None else self._pool.map(run, shards)
        return _add_up(self._sums, partial)

    def prepare(self) -> None:
        """Trace the graph and let it be rewritten once, on nobody.

        A round does it where it was not done: shards that came at once would each rewrite it.
        """
        if self._prepared:
            return
        if self._pool is not None:
            self._pool.submit(_first_products)
        features = self._store.column(self._task.features)[:0]
        labels = self._store.column(self._task.label)[:0]
        nobody = Slice(features, labels, np.zeros(1, np.int32), np.zeros(0, np.int32))
        weights = [tf.zeros(shape) for shape in self._weights]
        self._run(nobody, weights, tf.constant(self._task.clip_norm, tf.float64))
        self._prepared = True

    def _cut(self, shard: Indices, round_number: int) -> Iterable[Slice]:
        return cohort_clients.slices(
            self._store,
            shard,
            columns=(self._task.features, self._task.label),
            cap=self._task.examples_per_client,
            seed=self._task.initial_seed,
            round_number=round_number,
        )

    def _run(self, part: Slice, weights: Tensors, norm: Any) -> Sums:
        sums = self._slice_sum(weights, part.features, part.labels, part.offsets, part.seeds, norm)
        return [s.numpy() for s in sums]

    def _signature(self) -> list[Any]:
        columns = [
            self._store.manifest.column(name) for name in (self._task.features, self._task.label)
        ]
        features, labels = (
            tf.TensorSpec([None, *column.shape], column.dtype) for column in columns
        )
        weights = [tf.TensorSpec(shape, tf.float32) for shape in self._weights]
        int32 = tf.TensorSpec([None], tf.int32)
        return [weights, features, labels, int32, int32, tf.TensorSpec([], tf.float64)]


def _first_products() -> None:
    """Let oneDNN write its matrix product's machine code, on a core that would wait."""
    rows, signals = tf.zeros([20, 64]), tf.zeros([20, 10])
    tf.matmul(rows, tf.zeros([64, 10]))
    tf.matmul(rows, signals, transpose_a=True)


def slice_sum(
    local: LocalUpdate,
    signature: list[Any],
    shapes: Sequence[tuple[int, ...]],
    *,
    counting: bool = False,
) -> Callable[..., Tensors]:
    """Graph function (weights, features, labels, offsets, seeds, clip norm) → int32 sums."""

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def summed(
        weights: Tensors, features: Any, labels: Any, offsets: Any, seeds: Any, clip_norm: Any
    ) -> Tensors:
        def client(index: Any, total: Tensors) -> tuple[Any, Tensors]:
            rows = ClientRows(features, labels, offsets[index], offsets[index + 1], seeds[index])
            # Who has no records contributes nothing, whatever an installed trainer makes of it, nor
            # to the count: else a person's coming could move both by twice the bound.
            there = rows.stop > rows.start
            steps, within = _clipped(_pieces(local(weights, rows)), clip_norm, there=there)
            if counting:
                half = tf.where(within, [HALF], [-HALF])
                steps = [*steps, tf.where(there, half, [0])]
            return index + 1, [t + s for t, s in zip(total, steps, strict=True)]

        zeros = _pieces([tf.zeros(shape, tf.int32) for shape in shapes])
        _, total = tf.while_loop(
            lambda index, total: index < tf.shape(seeds)[0],
            client,
            (tf.constant(0), zeros),
            parallel_iterations=1,
        )
        return _whole(list(total), shapes)

    return summed  # type: ignore[no-any-return]


def clip_to_grid(update: Tensors, clip_norm: float) -> Tensors:
    """Clip an update to global L2 norm `clip_norm` and truncate it to int32 steps of C/2²⁰.

    An update with any number that is not finite becomes zero, and so does one whose norm is.
    """
    steps, _ = _clipped(_pieces(update), tf.constant(clip_norm, tf.float64))
    return _whole(steps, [u.shape for u in update])


def _clipped(pieces: Tensors, clip_norm: Any, *, there: Any = True) -> tuple[Tensors, Any]:
    """The same under a norm that is a tensor, and whether the update was within it.

    Zero unless `there`.

    One piece after the other, and widened a second time instead of kept: what is at work stays in
    a core's own cache.
    """
    halves: Tensors = []
    for piece in pieces:
        with tf.control_dependencies(halves[-1:]):
            # Squares of float32 never overflow a double. `l2_loss` is half their sum, in one pass.
            halves.append(tf.nn.l2_loss(tf.cast(piece, tf.float64)))
    norm = tf.sqrt(2.0 * tf.add_n(halves))
    finite = tf.math.is_finite(norm)
    shrink = tf.minimum(tf.constant(1.0, tf.float64), clip_norm / tf.maximum(norm, 1e-300))
    counts = tf.logical_and(finite, there)
    factor = tf.where(counts, shrink * (GRID * _MARGIN / clip_norm), 0.0)
    steps: Tensors = []
    for piece in pieces:
        with tf.control_dependencies(steps[-1:] or [factor]):
            wide = tf.cast(piece, tf.float64)
        # NaN × 0 is NaN, so a factor of 0 must win over any number.
        steps.append(tf.cast(tf.math.multiply_no_nan(wide, factor), tf.int32))
    return steps, norm <= clip_norm


def _pieces(arrays: Tensors) -> Tensors:
    """All numbers of some arrays, flat, in runs of at most `_PIECE`."""
    runs = []
    for array in arrays:
        flat, size = tf.reshape(array, [-1]), math.prod(array.shape)
        if size <= _PIECE:
            runs.append(flat)
        else:
            runs += [flat[first : first + _PIECE] for first in range(0, size, _PIECE)]
    return runs


def _whole(pieces: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
    """The arrays of given shapes whose `_pieces` these are."""
    arrays, place = [], 0
    for shape in shapes:
        count = max(1, -(-math.prod(shape) // _PIECE))
        flat = pieces[place] if count == 1 else tf.concat(pieces[place : place + count], 0)
        arrays.append(tf.reshape(flat, shape))
        place += count
    return arrays


def _shards(cohort: Indices, sizes: Indices, count: int) -> list[Indices]:
    """Clients dealt so that shards have about the same number of examples."""
    if count == 1 or len(cohort) < 2:
        return [cohort]
    order = np.argsort(-sizes, kind="stable")
    return [cohort[np.sort(order[k::count])] for k in range(count) if k < len(cohort)]


def _add_up(shapes: Sequence[tuple[int, ...]], parts: Iterable[Sequence[npt.NDArray[Any]]]) -> Sums:
    """Integer sum of partial sums; zeros for none."""
    total = [np.zeros(shape, np.int64) for shape in shapes]
    for part in parts:
        for accumulated, array in zip(total, part, strict=True):
            accumulated += array
    return total
