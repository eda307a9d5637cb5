"""From an observation to a policy and a value: an actor-critic without memory."""

from __future__ import annotations

import torch
from torch import nn

from mpi_ltcr.nets.torsos import linear


class PolicyNetwork(nn.Module):
    """(B, *obs) -> policy logits (B, A) and values (B,).

    The weights of the policy's layer begin a hundred times smaller, so that the first policy is nearly uniform.

    Args:
        torso: (B, *obs) -> (B, features), shared by both heads.
    """

    def __init__(self, *, torso: nn.Module, features: int, actions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.torso = torso
        self.policy, self.value = linear(features, actions, generator), linear(features, 1, generator)
        with torch.no_grad():
            self.policy.weight.mul_(0.01)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.torso(obs)
        return self.policy(features), self.value(features).squeeze(-1)
