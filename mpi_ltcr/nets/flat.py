"""All parameters of a module as views of one flat vector, and all gradients of another.

One Adam step over one tensor instead of one over each parameter; a copy into the target network is one call; and the
vectors are what a parameter server sends as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn


class FlatParameters(NamedTuple):
    """Both float32 of shape (P,); `values` is a leaf whose `.grad` is `grads`."""

    values: torch.Tensor
    grads: torch.Tensor

    def copy(self) -> np.ndarray:
        """The values, (P,) float32 of their own."""
        values: np.ndarray = self.values.detach().cpu().numpy().copy()
        return values

    def take(self, saved: np.ndarray, name: str) -> None:
        """Take over values (P,); raises ValueError if they are of another network."""
        if saved.shape != self.values.shape:
            raise ValueError(f"{name}: {saved.size} parameters were saved, this network has {len(self.values)}")
        with torch.no_grad():
            self.values.copy_(torch.from_numpy(np.ascontiguousarray(saved)))


COUNTLESS = 2**62
"""What 64 bits cannot count."""


def count(build: Callable[[torch.Generator], nn.Module]) -> int:
    """Parameters of the network that `build(generator)` makes, counted without the memory for one of them.

    `COUNTLESS` where 64 bits do not hold the size of a layer.
    """
    generator = torch.Generator()
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build(generator).parameters())
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        return COUNTLESS


def flatten(module: nn.Module) -> FlatParameters:
    """Move the parameters of `module`, in their order of registration, into one flat vector and return it.

    Afterwards `p.data` and `p.grad` of each parameter are views; zero gradients with ``grads.zero_()``, because
    ``zero_grad(set_to_none=True)`` would cut the views off.
    """
    parameters = list(module.parameters())
    values = torch.cat([p.detach().reshape(-1) for p in parameters])
    grads = torch.zeros_like(values)
    start = 0
    for p in parameters:
        end = start + p.numel()
        p.data = values[start:end].view_as(p)
        p.grad = grads[start:end].view_as(p)
        start = end
    values.grad = grads
    return FlatParameters(values, grads)
