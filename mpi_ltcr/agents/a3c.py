"""One worker of asynchronous advantage actor-critic (CDRL 3.2 and Algorithm 1), student and teacher alike.

It knows neither ranks nor servers: its steppers take gradients, and somebody else puts new weights into `flat`. It may
play several games side by side, each with an actor's recurrent state and generator of its own. Lines 21 and 22 then sum
over the games as they sum over i: one gradient is that of as many workers with the same weights.

Legend: G games, P of them still in the running rollout, N steps of a rollout in all games, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from mpi_ltcr.agents.soundness import names_batch
from mpi_ltcr.formulas import actor_critic, distillation
from mpi_ltcr.interfaces import EnvSpec, Metrics, Policy, Rollout, State, Stepper, Transition
from mpi_ltcr.nets.flat import FlatParameters
from mpi_ltcr.nets.universe import Outputs, RecurrentActorCritic, RecurrentState


class A3CAgent:
    """Network, recurrent state, the running rollout, and the steppers its gradients go to.

    Args:
        flat: the parameters of `net` as a vector.
        rl_stepper, distill_stepper: where the gradients of Algorithm 1 lines 21-22 and 31 go.
        explore_rngs: of each game, draw actions from the policy; part of the state.
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
        explore_rngs: Sequence[np.random.Generator],
        rl: bool,
        discount: float,
        gae_lambda: float,
        value_coef: float,
        entropy_coef: float,
    ) -> None:
        self.spec, self.net, self.flat = spec, net, flat
        self.rl_stepper, self.distill_stepper = rl_stepper, distill_stepper
        self.explore_rngs = list(explore_rngs)
        self.rl = rl
        self.discount, self.gae_lambda = float(discount), float(gae_lambda)
        self.value_coef, self.entropy_coef = float(value_coef), float(entropy_coef)
        self.frames = 0
        self.games = len(self.explore_rngs)
        self._begin(net.initial_state(self.games), [True] * self.games)

    # Acting: lines 4 to 15

    def _begin(self, recurrent: RecurrentState, first: list[bool]) -> None:
        """A rollout of all games, from these states (G, ..); `first` (G,): it begins an episode."""
        self.recurrent = self._start = recurrent
        self._first = first
        self._playing = list(range(self.games))
        self._steps: list[list[Transition]] = [[] for _ in first]
        self._bootstrap = [0.0] * self.games

    def act(self, obs: Sequence[np.ndarray]) -> list[int]:
        """Of each game that is left, an action drawn from softmax(policy logits); advances the recurrent states."""
        logits, _, self.recurrent = self._play(np.array(obs))
        return [draw(row, self.explore_rngs[game]) for row, game in zip(logits, self._playing, strict=True)]

    def _play(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, RecurrentState]:
        """`_look` at the next observations of the running rollout."""
        return self._look(obs, self.recurrent)

    def observe(self, transitions: Sequence[Transition]) -> None:
        """Append a step of each game that was left; those that are over leave, and with them their recurrent states."""
        for game, transition in zip(self._playing, transitions, strict=True):
            self._steps[game].append(transition)
        self.frames += len(transitions)
        if any(transition.over for transition in transitions):
            self._close([row for row, transition in enumerate(transitions) if transition.over])
            stay = [row for row, transition in enumerate(transitions) if not transition.over]
            self.recurrent = self._rows(stay)
            self._playing = [self._playing[row] for row in stay]

    def finish(self) -> Rollout:
        """Close the running rollout. Line 16, and the start of the next."""
        self._close(list(range(len(self._playing))))
        steps = [transition for steps in self._steps for transition in steps]
        rollout = Rollout(
            obs=np.stack([t.obs for t in steps]),
            actions=np.array([t.action for t in steps], np.int64),
            rewards=np.array([t.reward for t in steps], np.float32),
            lengths=tuple(len(steps) for steps in self._steps),
            start=self._start,
            bootstrap=tuple(self._bootstrap),
            first=tuple(self._first),
        )
        h, c = self.net.initial_state(self.games)
        h[self._playing], c[self._playing] = self.recurrent
        self._begin((h, c), [game not in self._playing for game in range(self.games)])
        return rollout

    def _close(self, rows: list[int]) -> None:
        """What these of the P games are worth after their last steps: V, but nothing after a termination."""
        last = {row: self._steps[self._playing[row]][-1] for row in rows}
        rows = [row for row in rows if last[row].discount != 0]
        if rows:
            _, values, _ = self._look(np.stack([last[row].next_obs for row in rows]), self._rows(rows))
            for row, value in zip(rows, values.tolist(), strict=True):
                self._bootstrap[self._playing[row]] = value

    def _rows(self, rows: list[int]) -> RecurrentState:
        """Of the P recurrent states, these."""
        h, c = self.recurrent
        return h[rows], c[rows]

    def player(self, rng: np.random.Generator) -> Policy:
        """The policy itself for one episode, with a recurrent state of its own."""
        recurrent = self.net.initial_state()

        def policy(obs: np.ndarray) -> int:
            nonlocal recurrent
            logits, _, recurrent = self._look(obs[None], recurrent)
            return draw(logits[0], rng)

        return policy

    @torch.no_grad()
    def _look(self, obs: np.ndarray, recurrent: RecurrentState) -> tuple[np.ndarray, np.ndarray, RecurrentState]:
        """At observations (P, *obs): policy logits (P, A), their values (P,), and the next recurrent states."""
        out, after = self.net.step(self._obs(obs), recurrent)
        return out.policy.numpy(), out.value.numpy(), after

    # Learning: lines 16 to 24, and 31

    def outputs(self, rollout: Rollout) -> Outputs:
        """The network on a rollout, with gradient: policy (N, A), value (N,), distill (N, A)."""
        return self.net.unroll(self._obs(rollout.obs), rollout.start, rollout.lengths)

    @names_batch
    def learn(self, rollout: Rollout) -> Metrics:
        """The GAE interaction: one gradient of lines 17-23 to the RL stepper (line 24).

        Raises:
            NonFiniteError: the loss is not finite.
        """
        if not self.rl:
            return {}
        out = self.outputs(rollout)
        values = out.value.detach()
        advantages, returns = actor_critic.gae_each(
            torch.from_numpy(rollout.rewards),
            values,
            torch.tensor(rollout.bootstrap, dtype=values.dtype),
            rollout.lengths,
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

    @names_batch
    def mimic(self, rollout: Rollout, aligned: torch.Tensor, temperature: float, layer: str) -> Metrics:
        """The distillation interaction, line 31: one gradient of Eq. 3 to the distillation stepper.

        Args:
            aligned: F(z^alpha), (N, A), held constant.
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
            "first": np.array(self._first),
            "explore_rngs": {str(game): rng.bit_generator.state for game, rng in enumerate(self.explore_rngs)},
        }

    def load_weights(self, values: np.ndarray) -> None:
        """Take over a parameter vector (P,); raises ValueError if it is of another length."""
        self.flat.take(values, "weights")

    def load_state(self, state: State) -> None:
        """Go on from a saved state; raises ValueError if it is of another number of games."""
        if len(state["first"]) != self.games:
            raise ValueError(f"{len(state['first'])} games were saved, this worker plays {self.games}")
        self.frames = state["frames"]
        recurrent = torch.from_numpy(state["h"].copy()), torch.from_numpy(state["c"].copy())
        self._begin(recurrent, state["first"].tolist())
        for game, rng in enumerate(self.explore_rngs):
            rng.bit_generator.state = state["explore_rngs"][str(game)]

    def _obs(self, obs: np.ndarray) -> torch.Tensor:
        """(N, *obs) -> scaled float32 (N, *torso.obs_shape)."""
        scaled = torch.from_numpy(obs).to(torch.float32) * torch.as_tensor(self.spec.obs_scale, dtype=torch.float32)
        return scaled.reshape(len(obs), *self.net.torso.obs_shape)


def draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """An action from softmax(logits (A,)), by one uniform number on the cumulated masses."""
    numbers = logits.tolist()
    largest = max(numbers)
    masses = [math.exp(number - largest) for number in numbers]
    rest = rng.random() * sum(masses)
    for action, mass in enumerate(masses):
        rest -= mass
        if rest < 0:
            return action
    return len(masses) - 1
