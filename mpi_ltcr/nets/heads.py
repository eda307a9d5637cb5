"""From features to atoms in more than one layer: the parts of dueling and of noisy networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mpi_ltcr.formulas import categorical

Layer = Callable[[int, int], nn.Module]
"""(inputs, outputs) -> a linear layer, noisy or not."""


class Stream(nn.Module):
    """One ReLU layer of its own, or none, and a linear one: (B, features) -> (B, outputs).

    Args:
        hidden: width of its own layer; 0: none.
    """

    def __init__(self, *, features: int, hidden: int, outputs: int, layer: Layer) -> None:
        super().__init__()
        self.hidden = layer(features, hidden) if hidden else None
        self.out = layer(hidden or features, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(x if self.hidden is None else torch.relu(self.hidden(x)))
        return y


class Dueling(nn.Module):
    """A stream for the state's value and one for the actions' advantages: (B, features) -> (B, A * K) logits."""

    def __init__(self, *, features: int, hidden: int, actions: int, atoms: int, layer: Layer) -> None:
        super().__init__()
        self.actions, self.atoms = actions, atoms
        self.value = Stream(features=features, hidden=hidden, outputs=atoms, layer=layer)
        self.advantage = Stream(features=features, hidden=hidden, outputs=actions * atoms, layer=layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        advantage = self.advantage(x).view(-1, self.actions, self.atoms)
        return categorical.dueling(self.value(x), advantage).flatten(1)
