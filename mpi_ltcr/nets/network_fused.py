"""The LSTM of cA3C, and with its torso and heads the whole network, by hand in numpy. See `nets/torsos_fused.py`.

Algorithm 1 acts and learns with the same weights, so that a rollout that was just played needs no second way forward:
what the way back needs of it is kept while playing (`play`, `played`). Any other rollout takes both ways (`unroll`).

Legend: T steps, B environments side by side, P of them that are still played, N steps of all of them, F features, H
units. PyTorch's order of gates is input, forget, cell, output; i, f, g, o below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpi_ltcr.nets.torsos_fused import affine, torso_of
from mpi_ltcr.nets.universe import RecurrentActorCritic, side_by_side

ArrayState = tuple[np.ndarray, np.ndarray]
"""(h, c), each (B, H)."""
Games = slice | Sequence[int]
"""Numbers of those that are played; slice(None): all."""


class Kept(NamedTuple):
    """What the way back needs of each step, (T, B, ..)."""

    x: np.ndarray
    h: np.ndarray
    """Before the step, and so c."""
    c: np.ndarray
    gates: np.ndarray
    squashed: np.ndarray
    """tanh of c after the step."""
    after: np.ndarray
    """h after the step."""


class FusedLSTM:
    """One `nn.LSTM` of one layer."""

    def __init__(self, net: RecurrentActorCritic) -> None:
        self.on_x, self.on_h = (affine(net.lstm, f"weight_{of}_l0", f"bias_{of}_l0") for of in ("ih", "hh"))
        self.scale = np.array([0.5, 0.5, 1, 0.5], self.on_x.bias.dtype)[:, None]
        self.shift = 1 - self.scale
        self.room = 32
        """Steps for which there is memory."""

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

    def begin(self, batch: int) -> None:
        """Forget all steps; the next ones are of `batch` environments."""
        features, units, dtype = len(self.on_x.weight.T), len(self.on_h.weight.T), self.on_x.bias.dtype
        shapes = (features,), (units,), (units,), (4, units), (units,), (units,)
        self.kept = Kept(*(np.zeros((self.room, batch, *shape), dtype) for shape in shapes))
        self.steps = 0

    def advance(self, x: np.ndarray, inputs: np.ndarray, state: ArrayState, games: Games) -> ArrayState:
        """`step`, kept for the way back: x (P, F), what `inputs` made of it, and the state of these environments."""
        if self.steps == self.room:
            self.kept = Kept(*(np.concatenate([part, np.zeros_like(part)]) for part in self.kept))
            self.room *= 2
        after, gates, squashed = self.step(inputs, state)
        for part, rows in zip(self.kept, (x, *state, gates, squashed, after[0]), strict=True):
            part[self.steps, games] = rows
        self.steps += 1
        return after

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Fill the gradients, from that of h after all steps since `begin` (T, B, H); returns that of x (T, B, F)."""
        x, h, c, gates, squashed, _ = (part[: self.steps] for part in self.kept)
        inside = _inside(gradient, c, gates, squashed, self.on_h.weight)
        inside = inside.reshape(-1, self.on_h.weight.shape[0])
        self.on_x.learn(x.reshape(len(inside), -1), inside)
        np.matmul(inside.T, h.reshape(len(inside), -1), out=self.on_h.weight_grad)
        self.on_h.bias_grad[:] = self.on_x.bias_grad
        return (inside @ self.on_x.weight).reshape(x.shape)


def _inside(
    gradient: np.ndarray, cells: np.ndarray, gates: np.ndarray, squashed: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """The gradient of what i, f, g and o are the tanh or sigmoid of, (T, B, 4, H)."""
    i, f, g, o = (gates[:, :, k] for k in range(4))
    # Of c, c, c and h by the insides of i, f, g and o:
    slopes = np.stack([g * i * (1 - i), cells * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], axis=2)
    h_to_c = o * (1 - squashed * squashed)
    dh, dc = np.zeros_like(gradient[0]), np.zeros_like(gradient[0])
    for t in reversed(range(len(gradient))):
        dh = gradient[t] + dh
        dc = dc + dh * h_to_c[t]
        slopes[t, :, :3] *= dc[:, None]
        slopes[t, :, 3] *= dh
        dc = dc * f[t]
        dh = slopes[t].reshape(len(dh), -1) @ weight
    return slopes


HEADS = "policy", "value", "distill"


class FusedNetwork:
    """A `RecurrentActorCritic` whose parameters `nets.flat.flatten` has made views of a vector, and its gradients.

    Looking on with `step` disturbs no rollout that is being played or learned from. Call `take_weights` whenever the
    vector has changed.
    """

    def __init__(self, net: RecurrentActorCritic) -> None:
        self.looking, self.learning = torso_of(net), torso_of(net)
        self.lstm = FusedLSTM(net)
        self.heads = {name: affine(getattr(net, name)) for name in HEADS}
        self.dtype = self.lstm.scale.dtype
        self.whole = False
        """What was played is kept, from the first step of its rollout on."""
        self.begin(1)

    def take_weights(self) -> None:
        """The vector's numbers are new: what has been made of the old ones is made anew."""
        self.looking.take_weights()
        self.learning.take_weights()
        self.whole = False

    def begin(self, games: int) -> None:
        """The next `play` begins a rollout of so many games; until then what was played last is kept."""
        self.games, self.fresh = games, True

    def step(self, obs: np.ndarray, state: ArrayState) -> tuple[np.ndarray, np.ndarray, ArrayState]:
        """Look: (B, *obs) and the state -> policy logits (B, A), values (B,), the next state."""
        self.looking.begin()
        return self._say(self.lstm.step(self.lstm.inputs(self.looking.append(obs)), state)[0])

    def play(
        self, obs: np.ndarray, state: ArrayState, games: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, ArrayState]:
        """`step` of these games (P,), kept as part of the rollout that is being played."""
        if self.fresh:
            self.learning.begin()
            self.lstm.begin(self.games)
            self.turns: list[Sequence[int]] = []
            self.fresh, self.whole = False, True
        if not self.whole:
            return self.step(obs, state)
        self.turns.append(games)
        x = self.learning.append(obs)
        everybody = slice(None) if len(games) == self.games else games
        return self._say(self.lstm.advance(x, self.lstm.inputs(x), state, everybody))

    def _say(self, state: ArrayState) -> tuple[np.ndarray, np.ndarray, ArrayState]:
        return self.heads["policy"](state[0]), self.heads["value"](state[0])[:, 0], state

    def played(self, lengths: Sequence[int]) -> dict[str, np.ndarray] | None:
        """What `unroll` gives, of the rollout that was played, of so many steps of each game; None if it is not kept:
        weights have changed meanwhile, or another one was unrolled.
        """
        if not self.whole:
            return None
        self.places = side_by_side(lengths)
        self.order = np.concatenate([t * self.games + np.array(games) for t, games in enumerate(self.turns)])
        return self._outputs()

    def unroll(self, obs: np.ndarray, state: ArrayState, lengths: Sequence[int]) -> dict[str, np.ndarray]:
        """Learn: B rollouts, obs (N, *obs) of `lengths` steps one after the other, and the state before (B, H) ->
        "policy", "value" and "distill", (N, outputs).
        """
        self.whole = False
        self.learning.begin()
        self.lstm.begin(len(lengths))
        self.places = self.order = side_by_side(lengths)
        x = self._padded(self.learning.append(obs), max(lengths))
        inputs = self.lstm.inputs(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
        for row, made in zip(x, inputs, strict=True):
            state = self.lstm.advance(row, made, state, slice(None))
        return self._outputs()

    def _outputs(self) -> dict[str, np.ndarray]:
        self.hidden = self._rows(self.lstm.kept.after[: self.lstm.steps], self.places)
        return {name: head(self.hidden) for name, head in self.heads.items()}

    def backward(self, gradients: dict[str, np.ndarray]) -> None:
        """Fill all gradients, from those of some outputs of the last `unroll` or `played` (N, outputs); others count
        as 0.
        """
        total = np.zeros_like(self.hidden)
        for name, head in self.heads.items():
            if name in gradients:
                head.learn(self.hidden, gradients[name])
                total += gradients[name] @ head.weight
            else:
                head.weight_grad.fill(0)
                head.bias_grad.fill(0)
        self.learning.backward(self._rows(self.lstm.backward(self._padded(total, self.lstm.steps)), self.order))

    def _padded(self, rows: np.ndarray, steps: int) -> np.ndarray:
        """(N, F) of the rollouts that are being learned from -> (T, B, F) with zeros behind the shorter ones."""
        batch = self.lstm.kept.x.shape[1]
        padded = np.zeros((steps * batch, rows.shape[1]), rows.dtype)
        padded[self.places] = rows
        return padded.reshape(steps, batch, -1)

    def _rows(self, padded: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The way back, (T, B, F) -> (N, F) in the order of these places."""
        rows: np.ndarray = padded.reshape(-1, padded.shape[-1])[places]
        return rows
