"""From a feature vector to one distribution over K atoms for each action."""

from __future__ import annotations

import torch
from torch import nn

from mpi_ltcr.nets.torsos import linear


class AtomNetwork(nn.Module):
    """Z(s, a) as unnormalised log-masses: (B, *obs) -> (B, A, K) (LTCR section 2)."""

    def __init__(
        self, *, torso: nn.Module, features: int, actions: int, atoms: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.actions, self.atoms = actions, atoms
        self.torso = torso
        self.head = linear(features, actions * atoms, generator)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.torso(obs))
        return logits.view(-1, self.actions, self.atoms)
