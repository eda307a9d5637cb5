"""From an observation to a feature vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initialisation, U(+-1/sqrt(inputs)), drawn from `generator`."""
    with torch.random.fork_rng(devices=()):  # not skip_init, which imports sympy: a second for each rank
        layer = nn.Linear(inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


class MLP(nn.Module):
    """Fully connected ReLU layers: (B, *obs) -> (B, widths[-1]); without any the observation itself."""

    def __init__(self, *, inputs: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        sizes = (inputs, *widths)
        self.features = sizes[-1]
        layers = [linear(a, b, generator) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        x = obs.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Identity(nn.Module):
    """No layers at all, (B, *obs) -> (B, D): with a linear head this is LTCR Eq. 5, Z = W phi."""

    def __init__(self, *, inputs: int) -> None:
        super().__init__()
        self.features = inputs

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.flatten(1)


NATURE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Filters, side and stride of each convolution (Mnih et al. 2015)."""
NATURE_FEATURES = 512


def conv(channels: int, filters: int, side: int, stride: int, generator: torch.Generator) -> nn.Conv2d:
    """A convolution with torch's default initialisation, U(+-1/sqrt(fan in)), drawn from `generator`."""
    with torch.random.fork_rng(devices=()):
        layer = nn.Conv2d(channels, filters, side, stride)
    bound = 1 / math.sqrt(channels * side * side)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        assert layer.bias is not None
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


class Nature(nn.Module):
    """The CNN of Mnih et al. 2015, as C51 used it: (B, C, H, W) scaled pixels -> (B, 512).

    Args:
        dense: whether its fully connected layer is here; in dueling and noisy networks it is the head's.
    """

    def __init__(self, *, obs_shape: Sequence[int], dense: bool, generator: torch.Generator) -> None:
        super().__init__()
        channels, *sides = obs_shape
        convolutions = []
        for filters, side, stride in NATURE_LAYERS:
            convolutions.append(conv(channels, filters, side, stride, generator))
            channels, sides = filters, [(length - side) // stride + 1 for length in sides]
        self.convolutions = nn.ModuleList(convolutions)
        pixels = channels * math.prod(sides)
        self.dense = linear(pixels, NATURE_FEATURES, generator) if dense else None
        self.features = NATURE_FEATURES if dense else pixels

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        x = obs
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        x = x.flatten(1)
        return x if self.dense is None else torch.relu(self.dense(x))
