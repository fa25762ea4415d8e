"""The trusted half of a round: an integer sum becomes noised, and only then a new model.

The sandbox hands back, per weight array, the int64 sum of clipped updates on the grid C/2²⁰. Here
its shape and bound are checked, Gaussian noise of σ = z·2²⁰ grid steps is added once, and the
result is scaled by C/(2²⁰·q·N) with the public denominator q·N: the number of clients really drawn
enters nowhere. Everything after the noise (server optimizer, state) is post-processing.

An un-noised sum must never be returned, stored, logged or shown; no function here that takes one
gives it back. TensorFlow is never imported on this side.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from kit import tensors
from worker.noise import Integers, blocks
from worker.task import GRID, HALF

# Truncation shrinks norms; this covers the float arithmetic before it, with room to spare.
SLACK = 2.0**-18
MAX_CLIENTS = 1 << 40

Weights: TypeAlias = list[npt.NDArray[np.float32]]
Sums: TypeAlias = Sequence[npt.NDArray[np.int64]]
Shapes: TypeAlias = Sequence[tuple[int, ...]]
ServerOptimizerName = Literal["sgd", "momentum", "adam", "adagrad", "yogi"]

_LARGEST = float(np.finfo(np.float32).max)
_SLOTS = {"sgd": 0, "momentum": 1, "adam": 2, "adagrad": 1, "yogi": 2}


class Gaussian(Protocol):
    """Where noise comes from: a round's own stream, or the nodes of a tree."""

    def gaussian(self, count: int, sigma: float) -> Integers:
        """The next `count` integers of standard deviation `sigma` (a tree: of each node)."""
        ...


class AggregateInvalid(ValueError):
    """A sum that no cohort of clipped updates can have; its numbers are not in the text."""


@dataclass(frozen=True, slots=True)
class ServerOptimizer:
    """A server optimizer of the FedOpt family (Reddi et al. 2021, arXiv 2003.00295).

    `momentum` is used by momentum (default 0.9) and as β₁ elsewhere. The noised mean update takes
    the place of the negative gradient. Adam and Yogi correct their bias as Keras' Adam does.
    """

    name: ServerOptimizerName = "sgd"
    learning_rate: float = 1.0
    momentum: float | None = None
    beta2: float = 0.999
    epsilon: float = 1e-7

    @property
    def beta1(self) -> float:
        """Decay of the running mean."""
        return 0.9 if self.momentum is None else self.momentum


@dataclass(slots=True)
class ServerState:
    """Model and optimizer state after some rounds: all that a job needs to go on.

    Attributes:
        weights: the released model, float32, in Keras order.
        step: server steps taken.
        slots: optimizer arrays, `slots[k][i]` belonging to `weights[i]`.
        clip_norm: the next round's C where it adapts; it follows from noised counts alone.
        noise_key: key of a tree that is not finished. It would uncover un-noised sums, so it is
            kept with the trusted side's memory and forgotten with the tree.
    """

    weights: Weights
    step: int = 0
    slots: list[Weights] = field(default_factory=list)
    clip_norm: float | None = None
    noise_key: bytes | None = field(default=None, repr=False)

    @property
    def remembers(self) -> bool:
        """Whether going on needs more than the released weights."""
        return bool(self.slots) or self.clip_norm is not None or self.noise_key is not None

    def to_bytes(self) -> bytes:
        """Weights, step and slots as a file of `kit.tensors`."""
        arrays: dict[str, npt.NDArray[Any]] = {"step": np.array(self.step, np.int64)}
        arrays |= {f"weight_{i:04d}": w for i, w in enumerate(self.weights)}
        for k, slot in enumerate(self.slots):
            arrays |= {f"slot{k}_{i:04d}": s for i, s in enumerate(slot)}
        if self.clip_norm is not None:
            arrays["clip_norm"] = np.array(self.clip_norm, np.float64)
        if self.noise_key is not None:
            arrays["noise_key"] = np.frombuffer(self.noise_key, np.uint8)
        return tensors.dump(arrays)

    @classmethod
    def from_bytes(cls, data: bytes, shapes: Shapes) -> "ServerState":
        """Read what `to_bytes` wrote; ValueError when it does not belong to a model of `shapes`."""
        held = tensors.load(data)
        slots = sorted({name.partition("_")[0] for name in held if name.startswith("slot")})
        state = cls(
            _named(held, "weight_"),
            int(held["step"]),
            [_named(held, f"{slot}_") for slot in slots],
            float(held["clip_norm"]) if "clip_norm" in held else None,
            held["noise_key"].tobytes() if "noise_key" in held else None,
        )
        for arrays in (state.weights, *state.slots):
            if [a.shape for a in arrays] != list(shapes) or any(
                a.dtype != "float32" for a in arrays
            ):
                raise ValueError("Expected a checkpoint of this model")
        return state


def _named(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> list[npt.NDArray[Any]]:
    """Arrays whose names begin so, in order of the rest."""
    return [array for name, array in arrays.items() if name.startswith(prefix)]


def check_weights(weights: Sequence[npt.NDArray[np.float32]], shapes: Shapes) -> Weights:
    """Weights that came from outside (the sandbox, an upload): float32, right shapes, finite.

    Raises:
        AggregateInvalid: they are not.
    """
    if [array.shape for array in weights] != [tuple(shape) for shape in shapes]:
        raise AggregateInvalid("weights of another shape than the model's")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in weights):
        raise AggregateInvalid("weights that are not finite float32")
    return list(weights)


def check_sum(sums: Sums, shapes: Shapes, clients: int) -> None:
    """Refuse a sum that `clients` updates, each of norm at most C, cannot have.

    Args:
        sums: int64 arrays on the grid C/2²⁰, in Keras order.
        shapes: shapes of the model's weights.
        clients: size of the cohort that was handed out.

    Raises:
        AggregateInvalid: wrong shapes, wrong dtype, or a norm beyond clients · C · (1 + 2⁻¹⁸).
    """
    if not 0 <= clients <= MAX_CLIENTS:
        raise AggregateInvalid("a cohort of an impossible size")
    if [array.shape for array in sums] != [tuple(shape) for shape in shapes]:
        raise AggregateInvalid("a sum of another shape than the model's")
    square = 0.0
    for array in sums:
        if array.dtype != np.int64:
            raise AggregateInvalid("a sum that is not int64")
        for part in _blocks(array):
            numbers = part.astype(np.float64)
            # A product by BLAS would wake its threads, and after it they turn round for some 100 ms
            # on the cores that the sandbox trains on.
            square += float(np.square(numbers, out=numbers).sum())
    if math.sqrt(square) > clients * GRID * (1.0 + SLACK):
        raise AggregateInvalid("a sum beyond what clipped updates can add up to")


def check_count(count: npt.NDArray[np.int64], clients: int) -> None:
    """Refuse a count that `clients` halves cannot add up to.

    Raises:
        AggregateInvalid: wrong shape, wrong dtype, or beyond the bound.
    """
    if count.shape != (1,) or count.dtype != np.int64:
        raise AggregateInvalid("a count of another form")
    if not -clients * HALF <= int(count[0]) <= clients * HALF:
        raise AggregateInvalid("a count beyond what a cohort can add up to")


def sigma_of(noise_multiplier: float) -> float:
    """σ of the noise on a sum in steps of its grid, of z in units of C."""
    return noise_multiplier * GRID


def noised_mean(
    sums: Sums,
    *,
    clip_norm: float,
    noise_multiplier: float,
    denominator: float,
    source: Gaussian,
) -> Weights:
    """The Gaussian mechanism: (sum + N(0, (z·C)²)) / (q·N), exact on the grid before scaling.

    Args:
        sums: checked int64 sums on the grid C/2²⁰.
        clip_norm: C, the bound on one client's update.
        noise_multiplier: z, the noise's standard deviation in units of C, on the sum.
        denominator: q·N, a public constant of the plan, never the size of the cohort.
        source: the round's noise.

    Returns:
        The noised mean update, float32.
    """
    for name, value in (("clip_norm", clip_norm), ("denominator", denominator)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"Expected finite {name}={value!r} > 0")
    scale = clip_norm / (GRID * denominator)
    sigma = sigma_of(noise_multiplier)
    updates = [np.empty(array.shape, np.float32) for array in sums]
    for array, update in zip(sums, updates, strict=True):
        for part, mean in zip(_blocks(array), _blocks(update), strict=True):
            noise = source.gaussian(part.size, sigma)
            noise += part
            np.multiply(noise, scale, out=mean, casting="same_kind")
    return updates


def _blocks(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """An array's numbers in order, a block at a time: what a core's own cache holds."""
    flat = array.reshape(-1)
    return (flat[piece] for piece in blocks(flat.size))


def server_step(state: ServerState, update: Weights, optimizer: ServerOptimizer) -> ServerState:
    """The next state; the given one is not changed.

    Args:
        state: model and slots so far.
        update: noised mean update, as the model's weights.
        optimizer: what turns it into a step.

    Returns:
        State with `step` one higher. Numbers that would leave float32 stay at its largest.
    """
    slots = state.slots or [
        [np.zeros_like(w) for w in state.weights] for _ in range(_SLOTS[optimizer.name])
    ]
    step = state.step + 1
    rule = _RULES[optimizer.name]
    weights, columns = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for i, (weight, delta) in enumerate(zip(state.weights, update, strict=True)):
            moved, kept = rule(optimizer, delta, [slot[i] for slot in slots], step)
            weights.append(_finite(weight + np.float32(optimizer.learning_rate) * moved))
            columns.append([_finite(array) for array in kept])
    return ServerState(weights, step, [list(slot) for slot in zip(*columns, strict=True)])


def run_round(
    state: ServerState,
    sums: Sums,
    *,
    clients: int,
    clip_norm: float,
    noise_multiplier: float,
    denominator: float,
    optimizer: ServerOptimizer,
    source: Gaussian,
) -> ServerState:
    """Check, noise and apply one round's sum: the one way from a sandbox to a release.

    Raises:
        AggregateInvalid: the sum cannot be one of `clients` clipped updates.
    """
    check_sum(sums, [w.shape for w in state.weights], clients)
    update = noised_mean(
        sums,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        denominator=denominator,
        source=source,
    )
    return server_step(state, update, optimizer)


_Array: TypeAlias = npt.NDArray[np.float32]
_Rule: TypeAlias = Callable[
    [ServerOptimizer, _Array, list[_Array], int], tuple[_Array, list[_Array]]
]


def _sgd(
    optimizer: ServerOptimizer, delta: _Array, slots: list[_Array], step: int
) -> tuple[_Array, list[_Array]]:
    return delta, []


def _momentum(
    optimizer: ServerOptimizer, delta: _Array, slots: list[_Array], step: int
) -> tuple[_Array, list[_Array]]:
    velocity = np.float32(optimizer.beta1) * slots[0] + delta
    return velocity, [velocity]


def _adagrad(
    optimizer: ServerOptimizer, delta: _Array, slots: list[_Array], step: int
) -> tuple[_Array, list[_Array]]:
    square = slots[0] + delta * delta
    root = np.sqrt(square) + np.float32(optimizer.epsilon)
    return (delta / root).astype(np.float32, copy=False), [square]


def _adam(
    optimizer: ServerOptimizer, delta: _Array, slots: list[_Array], step: int
) -> tuple[_Array, list[_Array]]:
    beta2 = np.float32(optimizer.beta2)
    square = beta2 * slots[1] + (1 - beta2) * delta * delta
    return _moment_step(optimizer, delta, slots[0], square, step)


def _yogi(
    optimizer: ServerOptimizer, delta: _Array, slots: list[_Array], step: int
) -> tuple[_Array, list[_Array]]:
    new = delta * delta
    square = slots[1] + np.float32(1 - optimizer.beta2) * np.sign(new - slots[1]) * new
    return _moment_step(optimizer, delta, slots[0], square, step)


def _moment_step(
    optimizer: ServerOptimizer, delta: _Array, mean: _Array, square: _Array, step: int
) -> tuple[_Array, list[_Array]]:
    """Bias-corrected step of Adam and Yogi."""
    beta1 = np.float32(optimizer.beta1)
    mean = beta1 * mean + (1 - beta1) * delta
    root = np.sqrt(np.maximum(square, 0) / np.float32(1 - optimizer.beta2**step))
    moved = mean / np.float32(1 - optimizer.beta1**step) / (root + np.float32(optimizer.epsilon))
    return moved.astype(np.float32, copy=False), [mean, square]


_RULES: dict[str, _Rule] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adam": _adam,
    "adagrad": _adagrad,
    "yogi": _yogi,
}


def _finite(array: _Array) -> _Array:
    """A step too far must end in a bad model, not in a job that fails by its data."""
    if array.dtype == np.float32 and np.isfinite(array).all():
        return array
    return np.nan_to_num(array, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST).astype(
        np.float32, copy=False
    )
