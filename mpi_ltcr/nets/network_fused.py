"""The LSTM of cA3C, and with its torso and heads the whole network, by hand in numpy. See `nets/torsos_fused.py`.

Legend: T steps, B environments side by side, N steps of all of them, F features, H units. PyTorch's order of gates is
input, forget, cell, output; i, f, g, o below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpi_ltcr.nets.torsos_fused import affine, torso_of
from mpi_ltcr.nets.universe import RecurrentActorCritic, side_by_side

ArrayState = tuple[np.ndarray, np.ndarray]
"""(h, c), each (B, H)."""


class FusedLSTM:
    """One `nn.LSTM` of one layer."""

    def __init__(self, net: RecurrentActorCritic) -> None:
        self.on_x, self.on_h = (affine(net.lstm, f"weight_{of}_l0", f"bias_{of}_l0") for of in ("ih", "hh"))
        self.scale = np.array([0.5, 0.5, 1, 0.5], self.on_x.bias.dtype)[:, None]
        self.shift = 1 - self.scale

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """What does not depend on h: W_x x + b, (N, F) -> (N, 4 H)."""
        y = self.on_x(x)
        y += self.on_h.bias
        return y

    def step(self, inputs: np.ndarray, state: ArrayState) -> tuple[ArrayState, np.ndarray, np.ndarray]:
        """(B, 4 H) and a state -> the next state, the gates (B, 4, H) and tanh of the next c (B, H)."""
        h, c = state
        gates = (inputs + h @ self.on_h.weight.T).reshape(len(c), 4, -1)
        gates *= self.scale  # sigmoid(z) = (1 + tanh(z / 2)) / 2: one call for all four
        np.tanh(gates, out=gates)
        gates *= self.scale
        gates += self.shift
        c = gates[:, 1] * c
        c += gates[:, 0] * gates[:, 2]
        squashed = np.tanh(c)
        return (gates[:, 3] * squashed, c), gates, squashed

    def forward(self, x: np.ndarray, state: ArrayState) -> np.ndarray:
        """(T, B, F) and the state before -> h after each step, (T, B, H)."""
        inputs = self.inputs(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
        h, c = state
        self.x, hidden, cells, gates, squashed = x, [h], [c], [], []
        for row in inputs:
            (h, c), opened, tanh_c = self.step(row, (h, c))
            hidden.append(h)
            cells.append(c)
            gates.append(opened)
            squashed.append(tanh_c)
        self.hidden, self.cells = np.stack(hidden), np.stack(cells[:-1])
        self.gates, self.squashed = np.stack(gates), np.stack(squashed)
        self.state: ArrayState = h, c
        return self.hidden[1:]

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Fill the gradients, from that of all h (T, B, H) of the last `forward`; returns that of x (T, B, F)."""
        inside = self._inside(gradient)
        inside = inside.reshape(-1, self.on_h.weight.shape[0])
        self.on_x.learn(self.x.reshape(len(inside), -1), inside)
        np.matmul(inside.T, self.hidden[:-1].reshape(len(inside), -1), out=self.on_h.weight_grad)
        self.on_h.bias_grad[:] = self.on_x.bias_grad
        return (inside @ self.on_x.weight).reshape(self.x.shape)

    def _inside(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient of what i, f, g and o are the tanh or sigmoid of, (T, B, 4, H)."""
        i, f, g, o = (self.gates[:, :, k] for k in range(4))
        # Of c, c, c and h by the insides of i, f, g and o:
        slopes = np.stack(
            [g * i * (1 - i), self.cells * f * (1 - f), i * (1 - g * g), self.squashed * o * (1 - o)], axis=2
        )
        h_to_c = o * (1 - self.squashed * self.squashed)
        dh, dc = np.zeros_like(gradient[0]), np.zeros_like(gradient[0])
        for t in reversed(range(len(gradient))):
            dh = gradient[t] + dh
            dc = dc + dh * h_to_c[t]
            slopes[t, :, :3] *= dc[:, None]
            slopes[t, :, 3] *= dh
            dc = dc * f[t]
            dh = slopes[t].reshape(len(dh), -1) @ self.on_h.weight
        return slopes


HEADS = "policy", "value", "distill"


class FusedNetwork:
    """A `RecurrentActorCritic` whose parameters `nets.flat.flatten` has made views of a vector, and its gradients.

    Acting and learning have memory of their own: playing on does not disturb a rollout that is being learned from. Call
    `take_weights` whenever the vector has changed.
    """

    def __init__(self, net: RecurrentActorCritic) -> None:
        self.acting, self.learning = torso_of(net), torso_of(net)
        self.lstm = FusedLSTM(net)
        self.heads = {name: affine(getattr(net, name)) for name in HEADS}
        self.dtype = self.lstm.scale.dtype

    def take_weights(self) -> None:
        """The vector's numbers are new: what has been made of the old ones is made anew."""
        self.acting.take_weights()
        self.learning.take_weights()

    def step(self, obs: np.ndarray, state: ArrayState) -> tuple[np.ndarray, np.ndarray, ArrayState]:
        """Act: (B, *obs) and the state -> policy logits (B, A), values (B,), the next state."""
        state = self.lstm.step(self.lstm.inputs(self.acting.forward(obs)), state)[0]
        return self.heads["policy"](state[0]), self.heads["value"](state[0])[:, 0], state

    def unroll(self, obs: np.ndarray, state: ArrayState, lengths: Sequence[int]) -> dict[str, np.ndarray]:
        """Learn: B rollouts, obs (N, *obs) of `lengths` steps one after the other, and the state before (B, H) ->
        "policy", "value" and "distill", (N, outputs).
        """
        self.places, self.batch = side_by_side(lengths), len(lengths)
        hidden = self.lstm.forward(self._padded(self.learning.forward(obs), max(lengths)), state)
        self.hidden = self._steps(hidden)
        return {name: self._steps(head(hidden)) for name, head in self.heads.items()}

    def backward(self, gradients: dict[str, np.ndarray]) -> None:
        """Fill all gradients, from those of some outputs of the last `unroll` (N, outputs); others count as 0."""
        total = np.zeros_like(self.hidden)
        for name, head in self.heads.items():
            if name in gradients:
                head.learn(self.hidden, gradients[name])
                total += gradients[name] @ head.weight
            else:
                head.weight_grad.fill(0)
                head.bias_grad.fill(0)
        self.learning.backward(self._steps(self.lstm.backward(self._padded(total, len(self.lstm.x)))))

    def _padded(self, rows: np.ndarray, steps: int) -> np.ndarray:
        """(N, F) of the rollouts that are being learned from -> (T, B, F) with zeros behind the shorter ones."""
        padded = np.zeros((steps * self.batch, rows.shape[1]), rows.dtype)
        padded[self.places] = rows
        return padded.reshape(steps, self.batch, -1)

    def _steps(self, padded: np.ndarray) -> np.ndarray:
        """The way back, (T, B, F) -> (N, F)."""
        rows: np.ndarray = padded.reshape(-1, padded.shape[-1])[self.places]
        return rows
