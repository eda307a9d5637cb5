"""A worker of cA3C whose gradients are made by hand in numpy: autograd's numbers in less time.

The weights are views of the agent's flat vectors, so steppers, servers and checkpoints do not notice. The formulas are
those of `formulas/actor_critic.py` and `formulas/distillation.py`; a test holds both against each other in float64 and
float32.

Legend: P games that are played, N steps of a rollout in all games, T of one, A actions; π = softmax(logits).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mpi_ltcr.agents.a3c import A3CAgent
from mpi_ltcr.agents.soundness import names_batch
from mpi_ltcr.interfaces import Metrics, Rollout
from mpi_ltcr.nets.network_fused import ArrayState, FusedNetwork
from mpi_ltcr.nets.universe import Outputs, RecurrentState
from mpi_ltcr.steppers import PushStepper

Step = Callable[[np.ndarray, ArrayState], tuple[np.ndarray, np.ndarray, ArrayState]]
"""Of a `FusedNetwork`: `step`, or `play` of some games."""


class FusedA3CAgent(A3CAgent):
    """An A3C worker on the CPU. A rollout takes the way forward once, for acting and for all that is learned from it:
    until `load_weights`, weights must not change.
    """

    rl_stepper: PushStepper
    distill_stepper: PushStepper

    def __init__(self, **parts: Any) -> None:
        """As A3CAgent."""
        self.fused = FusedNetwork(parts["net"])
        self.scale = np.asarray(parts["spec"].obs_scale, self.fused.dtype)
        self._unrolled: tuple[Rollout, dict[str, np.ndarray]] | None = None
        super().__init__(**parts)

    def load_weights(self, values: np.ndarray) -> None:
        """As A3CAgent; what was unrolled before is forgotten."""
        super().load_weights(values)
        self.fused.take_weights()
        self._unrolled = None

    def _begin(self, recurrent: RecurrentState, first: list[bool]) -> None:
        super()._begin(recurrent, first)
        self.fused.begin(self.games)

    def finish(self) -> Rollout:
        """As A3CAgent."""
        rollout = super().finish()
        out = self.fused.played(rollout.lengths)
        self._unrolled = (rollout, out) if out else None
        return rollout

    def _play(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, RecurrentState]:
        """As A3CAgent; what learning needs of it is kept."""
        self._unrolled = None
        return self._through(functools.partial(self.fused.play, games=self._playing), obs, self.recurrent)

    def _look(self, obs: np.ndarray, recurrent: RecurrentState) -> tuple[np.ndarray, np.ndarray, RecurrentState]:
        return self._through(self.fused.step, obs, recurrent)

    def _through(
        self, step: Step, obs: np.ndarray, recurrent: RecurrentState
    ) -> tuple[np.ndarray, np.ndarray, RecurrentState]:
        h, c = recurrent
        logits, values, (h_next, c_next) = step(self._inputs(obs), (h.numpy(), c.numpy()))
        return logits, values, (torch.from_numpy(h_next), torch.from_numpy(c_next))

    def outputs(self, rollout: Rollout) -> Outputs:
        """The network on a rollout, without gradient: policy (N, A), value (N,), distill (N, A)."""
        out = {name: torch.from_numpy(rows) for name, rows in self._unroll(rollout).items()}
        return Outputs(out["policy"], out["value"][:, 0], out["distill"])

    @names_batch
    def learn(self, rollout: Rollout) -> Metrics:
        """As A3CAgent."""
        if not self.rl:
            return {}
        out = self._unroll(rollout)
        values = out["value"][:, 0]
        advantages, returns = self._estimates(rollout, values)
        log_pi = log_softmax(out["policy"])
        pi = np.exp(log_pi)
        entropy = -(pi * log_pi).sum(-1)
        rows, actions = np.arange(len(pi)), rollout.actions
        parts = {
            "policy_loss": -float(log_pi[rows, actions] @ advantages),
            "value_loss": float(np.square(returns - values).sum()),
            "entropy": float(entropy.sum()),
        }
        loss = parts["policy_loss"] + self.value_coef * parts["value_loss"] - self.entropy_coef * parts["entropy"]
        # d/dlogits of -log π(a) is π - 1[a], and of -H it is π (log π + H)
        to_logits = pi * advantages[:, None] + self.entropy_coef * pi * (log_pi + entropy[:, None])
        to_logits[rows, actions] -= advantages
        to_values = 2 * self.value_coef * (values - returns)
        self.fused.backward({"policy": to_logits, "value": to_values[:, None]})
        norm = self.rl_stepper.follow(loss)
        return {**{name: part / len(pi) for name, part in parts.items()}, "rl_grad_norm": norm}

    def _estimates(self, rollout: Rollout, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lines 16 to 20, of each game's steps: advantages and returns (N,)."""
        cuts = np.cumsum(rollout.lengths)[:-1]
        games = zip(np.split(rollout.rewards, cuts), np.split(values, cuts), rollout.bootstrap, strict=True)
        found = [gae(r, v, after, self.discount, self.gae_lambda) for r, v, after in games]
        advantages, returns = (np.concatenate(part) for part in zip(*found, strict=True))
        return advantages, returns

    @names_batch
    def mimic(self, rollout: Rollout, aligned: torch.Tensor, temperature: float, layer: str) -> Metrics:
        """As A3CAgent."""
        log_q = log_softmax(self._unroll(rollout)[layer])
        log_p = log_softmax(
            aligned.detach().numpy() / float(temperature)
        )  # numpy takes a subclass of float for a float64
        p = np.exp(log_p)
        loss = float((p * (log_p - log_q)).sum() / len(p))
        self.fused.backward({layer: (np.exp(log_q) - p) / len(p)})
        return {"distill_loss": loss, "distill_grad_norm": self.distill_stepper.follow(loss)}

    def _unroll(self, rollout: Rollout) -> dict[str, np.ndarray]:
        if self._unrolled is None or self._unrolled[0] is not rollout:
            h, c = rollout.start
            out = self.fused.unroll(self._inputs(rollout.obs), (h.numpy(), c.numpy()), rollout.lengths)
            self._unrolled = rollout, out
        return self._unrolled[1]

    def _inputs(self, obs: np.ndarray) -> np.ndarray:
        """(N, *obs) -> scaled (N, *torso.obs_shape)."""
        scaled: np.ndarray = obs.astype(self.fused.dtype, copy=False) * self.scale
        return scaled.reshape(len(obs), *self.net.torso.obs_shape)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def gae(
    rewards: np.ndarray, values: np.ndarray, bootstrap: float, discount: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns (T,), as `actor_critic.gae`; in plain numbers, which for twenty steps are fastest."""
    advantages, returns = np.empty_like(values), np.empty_like(values)
    next_value, ret, advantage = bootstrap, bootstrap, 0.0
    for i, reward, value in zip(
        reversed(range(len(values))), rewards[::-1].tolist(), values[::-1].tolist(), strict=True
    ):
        advantage = reward + discount * next_value - value + discount * lam * advantage
        ret = reward + discount * ret
        advantages[i], returns[i] = advantage, ret
        next_value = value
    return advantages, returns
