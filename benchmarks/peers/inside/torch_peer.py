"""A hand-written PyTorch loop, run by its own interpreter: `torch_peer.py FOLDER`.

A process a core, one thread each, and every client's minibatches by `torch._foreach_add_` without
an optimizer. It knows nothing of federated learning: what it shows is how fast a researcher's own
loop could be who gives no promise.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conversation import Given, answer
from torch import nn

CORES = int(os.environ.get("PEER_CONCURRENCY", "2"))
Arrays = list[Any]


class _Characters(nn.Module):
    """Embedding, LSTM, last hidden state."""

    def __init__(self, embedding: dict[str, Any], lstm: dict[str, Any]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(embedding["input_dim"], embedding["output_dim"])
        self.lstm = nn.LSTM(embedding["output_dim"], lstm["units"], batch_first=True)
        # Keras has one bias; this one stays zero.
        self.lstm.bias_hh_l0.requires_grad_(False).zero_()

    def forward(self, rows: Any) -> Any:
        return self.lstm(self.embedding(rows.long()))[1][0][0]


class _ChannelsLast(nn.Module):
    """Pictures as Keras flattens them."""

    def forward(self, rows: Any) -> Any:
        return rows.permute(0, 2, 3, 1).flatten(1)


class _ChannelsFirst(nn.Module):
    def forward(self, rows: Any) -> Any:
        return rows.permute(0, 3, 1, 2)


def _model(task: dict[str, Any]) -> nn.Module:
    layers, shape = task["layers"], task["shape"]
    made: list[nn.Module] = [_ChannelsFirst()] if len(shape) == 3 else []
    if layers[0]["type"] == "Embedding":
        made, layers = [_Characters(*layers[:2])], layers[2:]
    for layer in layers:
        made += LAYERS[layer["type"]](layer)
        if layer.get("activation") == "relu":
            made.append(nn.ReLU())
    model = nn.Sequential(*made)
    # The lazy layers learn their inputs.
    model(torch.zeros(1, *shape, dtype=getattr(torch, task["dtype"])))
    return model


LAYERS: dict[str, Callable[[dict[str, Any]], list[nn.Module]]] = {
    "Dense": lambda layer: [nn.LazyLinear(layer["units"])],
    "Conv2D": lambda layer: [
        nn.LazyConv2d(layer["filters"], layer["kernel_size"], padding=layer["padding"])
    ],
    "MaxPooling2D": lambda layer: [nn.MaxPool2d(layer["pool_size"], layer["strides"])],
    "Flatten": lambda layer: [_ChannelsLast()],
}


def _turned(array: Any) -> Any:
    """A kernel between Keras' layout and PyTorch's."""
    return np.transpose(array, (3, 2, 0, 1) if array.ndim == 4 else (1, 0))


def _back(array: Any) -> Any:
    return np.transpose(array, (2, 3, 1, 0) if array.ndim == 4 else (1, 0))


class Loop:
    """One process: the model, its parameters in Keras' order, and the people's rows."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._model = _model(given.task)
        named = [(n, p) for n, p in self._model.named_parameters() if p.requires_grad]
        self._parameters = [parameter.data for _, parameter in named]
        self._variables = [parameter for _, parameter in named]
        # Tables and biases lie as in Keras.
        self._kernels = ["embedding" not in n and p.ndim > 1 for n, p in named]
        self._start = [
            torch.tensor(np.ascontiguousarray(_turned(array) if turn else array))
            for array, turn in zip(given.weights, self._kernels, strict=True)
        ]
        self._loss = nn.CrossEntropyLoss()
        self._clients = [
            tuple(torch.tensor(np.ascontiguousarray(part)) for part in given.client(number))
            for number in range(given.clients)
        ]

    def total(self, numbers: Sequence[int], clip_norm: float | None) -> Arrays:
        """Sum of the updates of some people, clipped or not, in the layout of Keras."""
        total = [torch.zeros_like(array) for array in self._start]
        for number in numbers:
            update = self._update(number)
            scale = 1.0
            if clip_norm is not None:
                norm = float(nn.utils.get_total_norm(update))
                scale = min(1.0, clip_norm / max(norm, 1e-30))
            torch._foreach_add_(total, update, alpha=scale)
        return [
            np.ascontiguousarray(_back(array.numpy()) if turn else array.numpy())
            for array, turn in zip(total, self._kernels, strict=True)
        ]

    def _update(self, number: int) -> Arrays:
        features, labels = self._clients[number]
        batch, rate = self._given.task["batch_size"], self._given.task["learning_rate"]
        torch._foreach_copy_(self._parameters, self._start)
        for first in range(0, len(labels), batch):
            part = slice(first, first + batch)
            loss = self._loss(self._model(features[part]), labels[part].long())
            gradients = torch.autograd.grad(loss, self._variables)
            torch._foreach_add_(self._parameters, list(gradients), alpha=-rate)
        return [new - old for new, old in zip(self._parameters, self._start, strict=True)]


_loops: list[Loop] = []


def _begin(folder: str) -> None:
    torch.set_num_threads(1)
    _loops.append(Loop(Given(Path(folder))))


def _part(numbers: Sequence[int], clip_norm: float | None) -> Arrays:
    return _loops[0].total(numbers, clip_norm)


def _shares(given: Given) -> list[list[int]]:
    """People for each process, of about as many examples each: the largest first, in turns."""
    shares: list[list[int]] = [[] for _ in range(CORES)]
    counts = [0] * CORES
    sizes = np.diff(given.offsets)
    for number in np.argsort(-sizes, kind="stable"):
        least = counts.index(min(counts))
        shares[least].append(int(number))
        counts[least] += int(sizes[number])
    return shares


def main(folder: str) -> None:
    """Start a process a core and answer."""
    given = Given(Path(folder))
    shares, clip = _shares(given), given.task["clip_norm"]
    generator = np.random.default_rng()

    def act(clip_norm: float | None, noise: float) -> Arrays:
        parts = pool.map(functools.partial(_part, clip_norm=clip_norm), shares)
        total = [sum(arrays) for arrays in zip(*parts, strict=True)]
        if noise:
            total = [array + generator.normal(0.0, noise, array.shape) for array in total]
        return total

    with ProcessPoolExecutor(CORES, initializer=_begin, initargs=(folder,)) as pool:
        acts = {
            "plain": lambda: act(None, 0.0),
            "private": lambda: act(clip, clip * given.task["noise_multiplier"]),
            "clipped": lambda: act(clip, 0.0),
        }
        answer(acts, {"torch": torch.__version__})


if __name__ == "__main__":
    main(sys.argv[1])
