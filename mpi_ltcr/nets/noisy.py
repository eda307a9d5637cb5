"""Noisy layers: exploration that is learned (Fortunato et al. 2018, factorised Gaussian noise).

Legend
    μ, σ       learned mean and scale of each weight and bias          σ_0   what sets the first σ: σ_0 / sqrt(inputs)
    ε          standard normal noise, one number for each input and one for each output
    f(x)       sign(x) sqrt(|x|)

    y = (μ_w + σ_w ∘ f(ε_out) f(ε_in)ᵀ) x + μ_b + σ_b ∘ f(ε_out)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class NoisyLinear(nn.Module):
    """A linear layer whose weights are drawn anew by `draw`; without noise it computes with the means alone.

    The bias gets the same ε_out as the weights of its row. Both σ start at σ_0 / sqrt(inputs).
    """

    def __init__(self, inputs: int, outputs: int, *, sigma0: float, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound, generator=generator))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma0 * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma0 * bound))
        self.noise: tuple[torch.Tensor, torch.Tensor] | None = None
        """f(ε_in) (inputs,) and f(ε_out) (outputs,)."""

    def draw(self, rng: np.random.Generator) -> None:
        """Take fresh noise from `rng`."""
        outputs, inputs = self.weight.shape
        self.noise = (self._squashed(rng.standard_normal(inputs)), self._squashed(rng.standard_normal(outputs)))

    def _squashed(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.sign(x) * np.sqrt(np.abs(x))).to(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.noise is None:
            return y
        f_in, f_out = self.noise  # the products below are those of the legend without forming the noise matrix
        return y + F.linear(x * f_in, self.weight_sigma, self.bias_sigma) * f_out


class Noise:
    """The noisy layers of a network, and the generator of their noise.

    Args:
        net: any network, also one without such layers.
        rng: several may share it; its state is its owner's to save.
    """

    def __init__(self, *, net: nn.Module, rng: np.random.Generator) -> None:
        self.layers = [module for module in net.modules() if isinstance(module, NoisyLinear)]
        self.rng = rng

    @contextlib.contextmanager
    def fresh(self) -> Iterator[None]:
        """Within it the network computes with one fresh draw, outside with its means."""
        for layer in self.layers:
            layer.draw(self.rng)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.noise = None
