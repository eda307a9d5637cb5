"""From an observation to a feature vector."""

from __future__ import annotations

import math
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
    """Fully connected ReLU layers: (B, *obs) -> (B, widths[-1])."""

    def __init__(self, *, inputs: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.features = widths[-1]
        sizes = (inputs, *widths)
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
