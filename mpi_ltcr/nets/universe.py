"""The network of CDRL's cA3C: four convolutions, an LSTM and three linear heads.

The numbers are those of the paper's code base, the OpenAI universe starter agent (CDRL 4.3 names it): 42x42 frames,
4 x [32 filters 3x3, stride 2, ELU], LSTM 256, and beside policy and value a *distillation* head on the same LSTM output
(CDRL 4.2). TensorFlow's conventions that change numbers are kept: asymmetric SAME padding, the forget gate's bias of
1, its initial distributions. What is not kept: PyTorch's LSTM has two bias vectors where TensorFlow's has one, both
learn, so their sum moves up to twice as fast.

Symbols: T steps of time, B environments side by side, N steps of all of them, A actions, F features of a torso, H units
of the LSTM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Layer = TypeVar("Layer", bound=nn.Module)
RecurrentState = tuple[torch.Tensor, torch.Tensor]
"""The LSTM's (h, c), each (B, H)."""

FRAME = 42
"""Height and width of a frame."""
FILTERS = 32
STRIDE = 2
KERNEL = 3
FORGET_BIAS = 1.0
"""What TensorFlow's BasicLSTMCell adds to the forget gate before its sigmoid."""


class Outputs(NamedTuple):
    """What the heads say, with the leading axis of the observations: (B,) or (N,)."""

    policy: torch.Tensor
    """Logits (.., A) of pi(a|s)."""
    value: torch.Tensor
    """V(s), (..), in units of the discounted reward."""
    distill: torch.Tensor
    """Logits (.., A) of the distillation layer (CDRL 4.2)."""


def side_by_side(lengths: Sequence[int]) -> np.ndarray:
    """Where the steps of B sequences, which follow each other, stand in (T, B), flattened: (N,).

    T is the longest length; behind the others there is padding.
    """
    return np.concatenate([np.arange(length) * len(lengths) + b for b, length in enumerate(lengths)])


def same_padding(size: int, *, kernel: int = KERNEL, stride: int = STRIDE) -> tuple[int, int]:
    """Zeros that TensorFlow's SAME padding puts (before, after) an axis of `size`: the odd one goes after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class UniverseTorso(nn.Module):
    """Frames (B, C, 42, 42) -> features (B, 288); the sizes go 42, 21, 11, 6, 3.

    Weights are U(+-sqrt(6 / (fan_in + fan_out))), biases 0. On 42 -> 21 and 6 -> 3 the padding is (0, 1), on the other
    two (1, 1): `padding=1` throughout would give the same sizes but features shifted by a pixel.

    Args:
        channels: C, frames in one observation (the paper: 1, the LSTM remembers instead).
        generator: draws the weights; the global generator is left alone.
    """

    def __init__(self, *, channels: int = 1, generator: torch.Generator) -> None:
        super().__init__()
        self.obs_shape: tuple[int, ...] = (channels, FRAME, FRAME)
        self.convolutions = nn.ModuleList()
        self.sizes = [FRAME]
        for _ in range(4):
            self.convolutions.append(_same_convolution(channels, self.sizes[-1], generator))
            self.sizes.append(math.ceil(self.sizes[-1] / STRIDE))
            channels = FILTERS
        self.features = FILTERS * self.sizes[-1] ** 2

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames
        for size, convolution in zip(self.sizes, self.convolutions, strict=False):
            before, after = same_padding(size)
            if before != after:  # a convolution can only pad both sides alike
                x = F.pad(x, (before, after, before, after))
            x = F.elu(convolution(x))
        return x.flatten(1)


def _same_convolution(channels: int, size: int, generator: torch.Generator) -> nn.Conv2d:
    before, after = same_padding(size)
    padding = before if before == after else 0
    layer = _blank(nn.Conv2d, channels, FILTERS, KERNEL, stride=STRIDE, padding=padding)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class MLPTorso(nn.Module):
    """Vectors (B, obs_size) -> features (B, widths[-1]) through ELU layers, so that cA3C also plays CartPole.

    Not in the paper. Weights and biases start as the convolutions of `UniverseTorso` do.

    Args:
        obs_size: numbers in one observation.
        widths: units of each layer, at least one layer.
        generator: draws the weights.
    Raises:
        ValueError: no widths.
    """

    def __init__(self, *, obs_size: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths: an MLP torso has at least one layer")
        self.obs_shape: tuple[int, ...] = (obs_size,)
        self.features = widths[-1]
        self.layers = nn.ModuleList()
        for inputs, outputs in zip((obs_size, *widths), widths, strict=False):
            layer = _blank(nn.Linear, inputs, outputs)
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        x = vectors
        for layer in self.layers:
            x = F.elu(layer(x))
        return x


class RecurrentActorCritic(nn.Module):
    """Torso, LSTM, and the heads pi(a|s), V(s) and the distillation layer, all three linear on the LSTM's output.

    The heads start with weights whose norm over the inputs of each output is 0.01 (policy, distillation) or 1
    (value), biases 0: the first policy is nearly uniform.

    Args:
        torso: from (N, *torso.obs_shape) to (N, torso.features).
        num_actions: A.
        hidden: H, units of the LSTM.
        generator: draws the weights; the global generator is left alone.
    """

    def __init__(
        self,
        *,
        torso: UniverseTorso | MLPTorso,
        num_actions: int,
        hidden: int = 256,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.torso = torso
        self.lstm = _lstm(torso.features, hidden, generator)
        self.policy = _head(hidden, num_actions, 0.01, generator)
        self.value = _head(hidden, 1, 1.0, generator)
        self.distill = _head(hidden, num_actions, 0.01, generator)

    def initial_state(self, batch: int = 1) -> RecurrentState:
        """The zero state (h, c), each (batch, H), with which every episode begins."""
        h, c = self.value.weight.new_zeros(2, batch, self.hidden)
        return h, c

    def step(self, obs: torch.Tensor, state: RecurrentState) -> tuple[Outputs, RecurrentState]:
        """Act: one step of B environments, obs (B, *obs) -> outputs (B, ..) and the next state.

        One LSTM cell on the weights of `lstm`: a third of the time of a sequence of length 1.
        """
        self._check(obs, state)
        weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.parameters()
        h, c = torch.lstm_cell(self.torso(obs), state, weight_ih, weight_hh, bias_ih, bias_hh)
        return self._heads(h), (h, c)

    def unroll(self, obs: torch.Tensor, state: RecurrentState, lengths: Sequence[int] | None = None) -> Outputs:
        """Learn: a rollout of one episode, obs (N, *obs) -> outputs (N, ..).

        `lengths` (B,): it is not one but B, of so many steps, one after the other. `state` (B, ..) is the one before
        their first steps. Equals calls of `step` to float32 rounding, twice as fast: the torso sees all steps at once,
        and `nn.LSTM` beats a loop over cells forward and backward.
        """
        return self.unroll_on(obs, state, lengths)[0]

    def unroll_on(
        self, obs: torch.Tensor, state: RecurrentState, lengths: Sequence[int] | None = None
    ) -> tuple[Outputs, RecurrentState]:
        """As `unroll`, and the state after the last step: where a teacher goes on with the next rollout.

        Of a rollout that is shorter than others it says nothing: its episode is over.
        """
        lengths = [len(obs)] if lengths is None else lengths
        self._check(obs, state)
        places = torch.from_numpy(side_by_side(lengths))
        features = self.torso(obs)
        sequence = features.new_zeros(max(lengths) * len(lengths), self.torso.features).index_copy(0, places, features)
        sequence = sequence.view(-1, len(lengths), self.torso.features)
        hidden, (h, c) = self.lstm(sequence, (state[0][None], state[1][None]))
        return self._heads(hidden.flatten(0, 1)[places]), (h[0], c[0])

    def _heads(self, hidden: torch.Tensor) -> Outputs:
        return Outputs(self.policy(hidden), self.value(hidden).squeeze(-1), self.distill(hidden))

    def _check(self, obs: torch.Tensor, state: RecurrentState) -> None:
        # Without it a forgotten axis is taken for another one.
        if obs.shape[1:] != self.torso.obs_shape:
            raise ValueError(f"obs: {tuple(obs.shape)} is not a batch of {self.torso.obs_shape}")
        if state[0].dim() != 2:
            raise ValueError(f"state: h has shape {tuple(state[0].shape)}, not (B, {self.hidden})")


def _blank(kind: type[Layer], *sizes: int, **how: int) -> Layer:
    """A layer for whose weights nothing has been drawn yet, on the device of the context."""
    return kind(*sizes, **how, device="meta").to_empty(device=torch.get_default_device())


def _lstm(inputs: int, hidden: int, generator: torch.Generator) -> nn.LSTM:
    """TensorFlow 0.11's defaults: U(+-sqrt(3 / (inputs + hidden))), as the cell multiplies one matrix with [x, h]."""
    layer = _blank(nn.LSTM, inputs, hidden)
    weight_ih, weight_hh, bias_ih, bias_hh = layer.parameters()
    bound = math.sqrt(3 / (inputs + hidden))
    nn.init.uniform_(weight_ih, -bound, bound, generator=generator)
    nn.init.uniform_(weight_hh, -bound, bound, generator=generator)
    nn.init.zeros_(bias_ih)
    nn.init.zeros_(bias_hh)
    with torch.no_grad():
        bias_ih[hidden : 2 * hidden] = FORGET_BIAS  # PyTorch's order of gates is input, forget, cell, output
    return layer


def _head(inputs: int, outputs: int, norm: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose weights to each output are a random direction of length `norm`, biases 0."""
    layer = _blank(nn.Linear, inputs, outputs)
    with torch.no_grad():
        directions = torch.randn(outputs, inputs, generator=generator)
        layer.weight.copy_(norm * directions / directions.norm(dim=1, keepdim=True))
    nn.init.zeros_(layer.bias)
    return layer
