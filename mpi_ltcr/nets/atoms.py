"""From a feature vector to one distribution over K atoms for each action."""

from __future__ import annotations

import torch
from torch import nn


class AtomNetwork(nn.Module):
    """Z(s, a) as unnormalised log-masses: (B, *obs) -> (B, A, K) (LTCR section 2).

    Args:
        torso: (B, *obs) -> (B, features).
        head: (B, features) -> (B, A * K); a linear layer, or one of `heads`.
    """

    def __init__(self, *, torso: nn.Module, head: nn.Module, actions: int, atoms: int) -> None:
        super().__init__()
        self.actions, self.atoms = actions, atoms
        self.torso, self.head = torso, head

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.torso(obs))
        return logits.view(-1, self.actions, self.atoms)
