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
        self.bf16 = False
        """Whether matrix products and convolutions are of bfloat16. Weights, their gradients and what comes out are
        float32 in any case: so are losses, optimisers and everything that is sent or saved."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(obs.device.type, torch.bfloat16, enabled=self.bf16):
            logits: torch.Tensor = self.head(self.torso(obs))
        return (logits.float() if self.bf16 else logits).view(-1, self.actions, self.atoms)
