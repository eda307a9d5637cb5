"""An actor-critic among LTCR's teammates: it teaches and learns pi(. | s), where the others tell softmax(Q / tau).

Beyond the paper. On its own it is A2C (Mnih et al. 2016, synchronous) without memory: no replay, no target network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch

from mpi_ltcr.agents.a3c import draw
from mpi_ltcr.agents.soundness import finite_answer, names_batch, require_finite
from mpi_ltcr.formulas import actor_critic, distillation
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, Metrics, Policy, State, Stepper, Transition
from mpi_ltcr.nets.flat import FlatParameters
from mpi_ltcr.nets.policy import PolicyNetwork
from mpi_ltcr.nets.staging import staged


class ActorCriticAgent:
    """One student that keeps a policy and a value.

    Args:
        flat: the parameters of `net` as a vector.
        revisit_stepper, digest_stepper: both drive `flat`; what they remember may be one and the same.
        explore_rng: draws actions from the policy; part of the state.
        rollout: the most steps that it learns from at once, those of a round.
        discount, gae_lambda, value_coef, entropy_coef: see `config.ActorCriticConfig`.
    """

    epsilon = 0.0
    """Share of random actions: its policy explores by itself."""

    def __init__(
        self,
        *,
        spec: EnvSpec,
        net: PolicyNetwork,
        flat: FlatParameters,
        revisit_stepper: Stepper,
        digest_stepper: Stepper,
        explore_rng: np.random.Generator,
        rollout: int,
        discount: float,
        gae_lambda: float,
        value_coef: float,
        entropy_coef: float,
    ) -> None:
        self.spec, self.net, self.flat = spec, net, flat
        self.revisit_stepper, self.digest_stepper = revisit_stepper, digest_stepper
        self.explore_rng = explore_rng
        self.discount, self.gae_lambda = float(discount), float(gae_lambda)
        self.value_coef, self.entropy_coef = float(value_coef), float(entropy_coef)
        self.frames = self.revisits = self.digests = 0
        self.support = torch.empty(0)
        self._steps: deque[Transition] = deque(maxlen=rollout)  # Revisit empties it; where there is none, the oldest go
        self._scale = torch.as_tensor(spec.obs_scale, dtype=torch.float32, device=flat.values.device)

    # Phase 1

    def act(self, obs: np.ndarray) -> int:
        """An action drawn from the policy at one observation (*obs)."""
        return self.player(self.explore_rng)(obs)

    def player(self, rng: np.random.Generator) -> Policy:
        """The policy itself, which is stochastic."""
        return lambda obs: draw(self._look(obs[None])[0][0].numpy(), rng)

    def observe(self, transition: Transition) -> None:
        """Append a step to the running rollout."""
        self._steps.append(transition)
        self.frames += 1

    # Phase 4

    def revisit(self) -> Metrics:
        """One step on what has been explored since the last one; nothing if that is nothing.

        Raises:
            NonFiniteError: the loss is not finite.
        """
        if not self._steps:
            return {}
        steps = list(self._steps)
        self._steps.clear()
        metrics = self._follow_gae(steps)
        self.revisits += 1
        return metrics

    @names_batch
    def _follow_gae(self, explored: list[Transition]) -> Metrics:
        paths = unbroken(explored)
        steps = [t for path in paths for t in path]
        logits, values = self.net(self._obs(np.stack([t.obs for t in steps])))
        advantages, returns = self._credit(paths, values.detach())
        actions = self._tensor(np.array([t.action for t in steps], np.int64))
        loss, parts = actor_critic.loss(
            logits, actions, values, advantages, returns, self.value_coef, self.entropy_coef
        )
        norm = self.revisit_stepper.step(loss / len(steps))
        return {
            "td_loss": float(parts["value_loss"]) / len(steps),
            "policy_loss": float(parts["policy_loss"]) / len(steps),
            "entropy": float(parts["entropy"]) / len(steps),
            "revisit_grad_norm": norm,
            "q_mean": float(values.detach().mean()),
        }

    def _credit(self, paths: list[list[Transition]], values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages and returns of all steps, (T,) each, path after path; `values` (T,) are those of the states."""
        ends = [path[-1] for path in paths]
        following = self._look(np.stack([t.next_obs for t in ends]))[1]
        goes_on = torch.tensor([t.discount != 0 for t in ends])
        rewards = self._tensor(np.array([t.reward for path in paths for t in path], np.float32))
        bootstraps = torch.where(goes_on, following, 0).to(values)
        lengths = [len(path) for path in paths]
        return actor_critic.gae_each(rewards, values, bootstraps, lengths, self.discount, self.gae_lambda)

    # Phases 2 and 3

    def answer(self, features: Features) -> np.ndarray:
        """pi(. | s) at the states of `features`: (N, A) float32 masses.

        Raises:
            NonFiniteError: a mass is not finite; nothing non-finite is ever sent.
        """
        return finite_answer(self._look(features.obs)[0].softmax(-1).numpy())

    @names_batch
    def mimic(self, lesson: Lesson) -> Metrics:
        """One step towards the teachers' policies (N, A), held constant.

        Raises:
            NonFiniteError: the loss is not finite.
        """
        loss = distillation.peer_loss(self._tensor(lesson.target), self.net(self._obs(lesson.features.obs))[0])
        norm = self.digest_stepper.step(loss)
        self.digests += 1
        return {"distill_loss": float(loss.detach()), "digest_grad_norm": norm}

    def values(self, features: Features) -> np.ndarray:
        """V(s), (N,); it knows no value of an action."""
        return self._look(features.obs)[1].numpy()

    def distributions(self, obs: np.ndarray) -> np.ndarray:
        """None of values: (N, *obs) -> (N, A, 0)."""
        return np.empty((len(obs), self.spec.num_actions, 0), np.float32)

    # Checkpoints

    def state(self) -> State:
        """Between two rounds, so without a rollout. Raises NonFiniteError if a weight is not finite."""
        require_finite(self.flat)
        return {
            "frames": self.frames,
            "revisits": self.revisits,
            "digests": self.digests,
            "weights": self.weights(),
            "revisit_stepper": self.revisit_stepper.state(),
            "digest_stepper": self.digest_stepper.state(),
            "explore_rng": self.explore_rng.bit_generator.state,
        }

    def weights(self) -> np.ndarray:
        """A copy of the parameters, (P,) float32."""
        return self.flat.copy()

    def load_weights(self, state: State) -> None:
        """Only the network of a saved state: enough to play. Raises ValueError if it is of another shape."""
        self.flat.take(state["weights"], "weights")

    def load_state(self, state: State) -> None:
        self.load_weights(state)
        self.frames, self.revisits, self.digests = state["frames"], state["revisits"], state["digests"]
        self.revisit_stepper.load_state(state["revisit_stepper"])
        self.digest_stepper.load_state(state["digest_stepper"])
        self.explore_rng.bit_generator.state = state["explore_rng"]

    # Private

    @torch.no_grad()
    def _look(self, obs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """At observations (N, *obs): policy logits (N, A) and values (N,), on the CPU."""
        logits, values = self.net(self._obs(obs))
        return logits.cpu(), values.cpu()

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return staged(array, self.flat.values.device)

    def _obs(self, obs: np.ndarray) -> torch.Tensor:
        """(N, *obs) in the environment's dtype -> scaled float32 on the learning device."""
        return self._tensor(obs).to(torch.float32) * self._scale


def unbroken(steps: Sequence[Transition]) -> list[list[Transition]]:
    """Steps in the order of time, cut where their game changes, ends, or loses what follows (a discount of 0)."""
    paths: list[list[Transition]] = []
    for game in sorted({t.game for t in steps}):
        path: list[Transition] = []
        paths.append(path)
        for t in (t for t in steps if t.game == game):
            if path and (path[-1].over or path[-1].discount == 0):
                path = []
                paths.append(path)
            path.append(t)
    return paths
