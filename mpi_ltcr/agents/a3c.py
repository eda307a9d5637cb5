"""One worker of asynchronous advantage actor-critic (CDRL 3.2 and Algorithm 1), student and teacher alike.

It knows neither ranks nor servers: its steppers take gradients, and somebody else puts new weights into `flat`.
"""

from __future__ import annotations

import numpy as np
import torch

from mpi_ltcr.formulas import actor_critic, distillation
from mpi_ltcr.interfaces import EnvSpec, Metrics, Policy, Rollout, State, Stepper, Transition
from mpi_ltcr.nets.flat import FlatParameters
from mpi_ltcr.nets.universe import Outputs, RecurrentActorCritic, RecurrentState


class A3CAgent:
    """Network, recurrent state, the running rollout, and the steppers its gradients go to.

    Args:
        flat: the parameters of `net` as a vector.
        rl_stepper, distill_stepper: where the gradients of Algorithm 1 lines 21-22 and 31 go.
        explore_rng: draws actions from the policy; part of the state.
        rl: False freezes the GAE interaction: the student only distils (CDRL Fig. 3a).
        layer: "distill" or "policy", the head that `mimic` trains.
        discount, gae_lambda, value_coef, entropy_coef: see `config.A3CConfig`.
    """

    def __init__(
        self,
        *,
        spec: EnvSpec,
        net: RecurrentActorCritic,
        flat: FlatParameters,
        rl_stepper: Stepper,
        distill_stepper: Stepper,
        explore_rng: np.random.Generator,
        rl: bool,
        discount: float,
        gae_lambda: float,
        value_coef: float,
        entropy_coef: float,
    ) -> None:
        self.spec, self.net, self.flat = spec, net, flat
        self.rl_stepper, self.distill_stepper = rl_stepper, distill_stepper
        self.explore_rng = explore_rng
        self.rl = rl
        self.discount, self.gae_lambda = float(discount), float(gae_lambda)
        self.value_coef, self.entropy_coef = float(value_coef), float(entropy_coef)
        self.frames = 0
        self.recurrent: RecurrentState = net.initial_state()
        self._first = True
        self._steps: list[Transition] = []
        self._start = self.recurrent

    # Acting: lines 4 to 15

    def act(self, obs: np.ndarray) -> int:
        """An action drawn from softmax(policy logits); advances the recurrent state."""
        logits, _, self.recurrent = self._look(obs, self.recurrent)
        return draw(logits, self.explore_rng)

    def observe(self, transition: Transition) -> None:
        """Append a step to the running rollout."""
        self._steps.append(transition)
        self.frames += 1

    def finish(self, *, over: bool) -> Rollout:
        """Close the running rollout; `over`: its episode has ended. Line 16, and the start of the next."""
        last = self._steps[-1]
        bootstrap = 0.0 if last.discount == 0 else self._look(last.next_obs, self.recurrent)[1]
        rollout = Rollout(
            obs=np.stack([t.obs for t in self._steps]),
            actions=np.array([t.action for t in self._steps], np.int64),
            rewards=np.array([t.reward for t in self._steps], np.float32),
            start=self._start,
            bootstrap=bootstrap,
            first=self._first,
        )
        self._steps, self._first = [], over
        if over:
            self.recurrent = self.net.initial_state()
        self._start = self.recurrent
        return rollout

    def player(self, rng: np.random.Generator) -> Policy:
        """The policy itself for one episode, with a recurrent state of its own."""
        recurrent = self.net.initial_state()

        def policy(obs: np.ndarray) -> int:
            nonlocal recurrent
            logits, _, recurrent = self._look(obs, recurrent)
            return draw(logits, rng)

        return policy

    @torch.no_grad()
    def _look(self, obs: np.ndarray, recurrent: RecurrentState) -> tuple[np.ndarray, float, RecurrentState]:
        """At one observation (*obs): policy logits (A,), its value, and the next recurrent state."""
        out, after = self.net.step(self._obs(obs[None]), recurrent)
        return out.policy[0].numpy(), float(out.value), after

    # Learning: lines 16 to 24, and 31

    def outputs(self, rollout: Rollout) -> Outputs:
        """The network on a rollout, with gradient: policy (T, A), value (T,), distill (T, A)."""
        return self.net.unroll(self._obs(rollout.obs), rollout.start)

    def learn(self, rollout: Rollout) -> Metrics:
        """The GAE interaction: one gradient of lines 17-23 to the RL stepper (line 24).

        Raises:
            NonFiniteError: the loss is not finite.
        """
        if not self.rl:
            return {}
        out = self.outputs(rollout)
        advantages, returns = actor_critic.gae(
            torch.from_numpy(rollout.rewards),
            out.value.detach(),
            torch.tensor(rollout.bootstrap),
            self.discount,
            self.gae_lambda,
        )
        actions = torch.from_numpy(rollout.actions)
        loss, parts = actor_critic.loss(
            out.policy, actions, out.value, advantages, returns, self.value_coef, self.entropy_coef
        )
        norm = self.rl_stepper.step(loss)
        steps = len(rollout.actions)
        return {**{name: float(part) / steps for name, part in parts.items()}, "rl_grad_norm": norm}

    def mimic(self, rollout: Rollout, aligned: torch.Tensor, temperature: float, layer: str) -> Metrics:
        """The distillation interaction, line 31: one gradient of Eq. 3 to the distillation stepper.

        Args:
            aligned: F(z^alpha), (T, A), held constant.
            layer: "distill" or "policy", the head of z^beta'.

        Raises:
            NonFiniteError: the loss is not finite.
        """
        loss = distillation.softened_kl(aligned, getattr(self.outputs(rollout), layer), temperature)
        return {"distill_loss": float(loss.detach()), "distill_grad_norm": self.distill_stepper.step(loss)}

    # Checkpoints

    def state(self) -> State:
        """Between two rollouts. Weights are not part of it: they belong to whom the steppers push to."""
        h, c = self.recurrent
        return {
            "frames": self.frames,
            "h": h.numpy().copy(),
            "c": c.numpy().copy(),
            "first": self._first,
            "explore_rng": self.explore_rng.bit_generator.state,
        }

    def load_weights(self, values: np.ndarray) -> None:
        """Take over a parameter vector (P,); raises ValueError if it is of another length."""
        if values.shape != self.flat.values.shape:
            raise ValueError(f"weights: {values.size} parameters, this network has {len(self.flat.values)}")
        with torch.no_grad():
            self.flat.values.copy_(torch.from_numpy(values))

    def load_state(self, state: State) -> None:
        self.frames, self._first = state["frames"], state["first"]
        self.recurrent = torch.from_numpy(state["h"].copy()), torch.from_numpy(state["c"].copy())
        self._start = self.recurrent
        self.explore_rng.bit_generator.state = state["explore_rng"]

    def _obs(self, obs: np.ndarray) -> torch.Tensor:
        """(N, *obs) -> scaled float32 (N, *torso.obs_shape)."""
        scaled = torch.from_numpy(obs).to(torch.float32) * torch.as_tensor(self.spec.obs_scale, dtype=torch.float32)
        return scaled.reshape(len(obs), *self.net.torso.obs_shape)


def draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """An action from softmax(logits (A,)), by one uniform number on the cumulated masses."""
    masses = np.exp(logits.astype(np.float64) - logits.max())
    return min(int(np.searchsorted(np.cumsum(masses), rng.random() * masses.sum(), side="right")), len(masses) - 1)
