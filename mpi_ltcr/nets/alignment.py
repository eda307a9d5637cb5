"""The alignment network F of CDRL 4.2: from a teacher's logits to a student's action space."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


class AlignmentNetwork(nn.Module):
    """F_omega: raw logits (.., A_teacher) -> logits (.., A_student), no softmax and no temperature on either side.

    `layers` hidden layers and a linear one (CDRL 5.3: "four fully connected layers"; its code has 4 x 512 before
    the output). The paper says ReLU and its code ELU: `activation` is the switch. Weights start as Xavier's
    U(+-sqrt(6 / (fan_in + fan_out))), biases 0.

    Args:
        num_teacher_actions: A_teacher.
        num_student_actions: A_student.
        width: units of each hidden layer.
        layers: hidden layers; 0 leaves a linear map.
        activation: what follows each hidden layer.
        generator: draws the weights; the global generator is left alone.
    """

    def __init__(
        self,
        *,
        num_teacher_actions: int,
        num_student_actions: int,
        width: int = 512,
        layers: int = 4,
        activation: Literal["relu", "elu"] = "relu",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if activation not in ("relu", "elu"):
            raise ValueError(f"activation: {activation!r} is not one of relu, elu")
        self.activation = F.relu if activation == "relu" else F.elu
        sizes = (num_teacher_actions, *[width] * layers, num_student_actions)
        self.layers = nn.ModuleList()
        for inputs, outputs in itertools.pairwise(sizes):
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        *hidden, last = self.layers
        x = logits
        for layer in hidden:
            x = self.activation(layer(x))
        aligned: torch.Tensor = last(x)
        return aligned
