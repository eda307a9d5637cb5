"""Categorical DQN (Bellemare et al. 2017), as LTCR section 2 states it: a student and a teacher."""

from __future__ import annotations

import numpy as np
import torch

from mpi_ltcr.agents.soundness import finite_answer, names_batch, require_finite
from mpi_ltcr.formulas import categorical, distillation, schedules
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, Metrics, Policy, State, Stepper, Transition
from mpi_ltcr.memory.replay import Replay, Sample
from mpi_ltcr.nets.atoms import AtomNetwork
from mpi_ltcr.nets.flat import FlatParameters
from mpi_ltcr.nets.noisy import Noise
from mpi_ltcr.nets.staging import staged


class C51Agent:
    """One student: network, target network, private replay, two optimisers.

    Args:
        net, target_net: the same architecture; `flat` and `target_flat` are their parameters as vectors.
        support: z, (K,).
        revisit_stepper, digest_stepper: both drive `flat`; what they remember may be one and the same.
        explore_rng: draws exploring actions; part of the state.
        noise, target_noise: of either network; with noisy layers they explore, and no random actions are drawn. Fresh
            for every action and for each network of every Revisit batch; whatever else is asked of the agent
            (evaluation, answers, Digest, dumps) is told by the mean weights. Their generator is part of the state.
        eval_epsilon: share of random actions of the evaluated policy.
        speak_net: "online" or "target", the network that answers as a teacher.
        temperature: tau; what is told and learned is softmax(Q / tau), a policy. None: it is Z(s, a), as in the paper.
        double: a* of Eq. 3 is the online network's choice (Double Q-learning) and not the target network's.
        warmup, target_period, epsilon_*: see `config.C51Config`, in frames.
    """

    def __init__(
        self,
        *,
        spec: EnvSpec,
        net: AtomNetwork,
        target_net: AtomNetwork,
        flat: FlatParameters,
        target_flat: FlatParameters,
        support: torch.Tensor,
        replay: Replay,
        revisit_stepper: Stepper,
        digest_stepper: Stepper,
        explore_rng: np.random.Generator,
        noise: Noise,
        target_noise: Noise,
        double: bool,
        batch: int,
        warmup: int,
        target_period: int,
        epsilon_start: float,
        epsilon_end: float,
        epsilon_frames: int,
        eval_epsilon: float,
        speak_net: str,
        temperature: float | None,
    ) -> None:
        self.spec = spec
        self.net, self.target_net, self.flat, self.target_flat = net, target_net, flat, target_flat
        self.support, self.replay = support, replay
        self.revisit_stepper, self.digest_stepper = revisit_stepper, digest_stepper
        self.explore_rng, self.noise, self.target_noise = explore_rng, noise, target_noise
        self.double, self.batch, self.warmup, self.target_period = double, batch, warmup, target_period
        self.epsilon_start, self.epsilon_end, self.epsilon_frames = epsilon_start, epsilon_end, epsilon_frames
        self.eval_epsilon, self.speak_net, self.temperature = eval_epsilon, speak_net, temperature
        self.frames = self.revisits = self.digests = 0
        self._scale = torch.as_tensor(spec.obs_scale, dtype=torch.float32, device=support.device)
        self._copy_target()

    # Phase 1

    @property
    def epsilon(self) -> float:
        """Share of random actions at this frame (LTCR 4.1); none where noisy layers explore."""
        if self.noise.layers:
            return 0.0
        return schedules.linear(self.frames, self.epsilon_start, self.epsilon_end, self.epsilon_frames)

    def act(self, obs: np.ndarray) -> int:
        """An epsilon-greedy action over expected values, or the greedy one of a noisy network."""
        with self.noise.fresh():
            return self._epsilon_greedy(obs, self.epsilon, self.explore_rng)

    def player(self, rng: np.random.Generator) -> Policy:
        """The nearly greedy policy that is evaluated."""
        return lambda obs: self._epsilon_greedy(obs, self.eval_epsilon, rng)

    def observe(self, transition: Transition) -> None:
        """Remember a step; every `target_period` frames the target network becomes a copy of the online one."""
        self.replay.add(transition)
        self.frames += 1
        if self.frames % self.target_period == 0:
            self._copy_target()

    # Phase 4

    def revisit(self) -> Metrics:
        """One step on Eq. 3 over a replayed batch; nothing before the warm-up is over.

        Raises:
            NonFiniteError: the loss is not finite.
        """
        if self.frames < self.warmup or len(self.replay) < self.batch:
            return {}
        metrics = self._follow_td(self.replay.sample(self.batch))
        self.revisits += 1
        return metrics

    @names_batch
    def _follow_td(self, sample: Sample) -> Metrics:
        batch = sample.batch
        reward, discount = self._tensor(batch.reward), self._tensor(batch.discount)
        with torch.no_grad():
            next_logits, next_action = self._following(self._obs(batch.next_obs))
            target = categorical.target_distribution(reward, discount, next_logits, self.support, next_action)
        with self.noise.fresh():
            logits = self._at(batch.obs, batch.action)
        losses = categorical.cross_entropy(target, logits)
        norm = self.revisit_stepper.step((self._tensor(sample.weights) * losses).mean())
        if self.replay.rated:
            self.replay.rate(sample.rows, categorical.kl_divergence(target, logits.detach()).cpu().numpy())
        positions = categorical.bellman_positions(reward, discount, self.support)
        return {
            "td_loss": float(losses.detach().mean()),
            "revisit_grad_norm": norm,
            "q_mean": float(categorical.expectation(logits.detach().softmax(-1), self.support).mean()),
            "clipped_fraction": float(categorical.clipped_fraction(positions, self.support)),
        }

    def _following(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the target network says of the next states, (B, A, K), and a* there, (B,)."""
        with self.target_noise.fresh():
            outputs = self.target_net(obs)
        if not self.double:
            return outputs, self._best(outputs)
        with self.noise.fresh():
            return outputs, self._best(self.net(obs))

    def _at(self, obs: np.ndarray, action: np.ndarray) -> torch.Tensor:
        """The online network's outputs at (s, a), (B, K), with gradient."""
        return categorical.at_action(self.net(self._obs(obs)), self._tensor(action))

    def _best(self, outputs: torch.Tensor) -> torch.Tensor:
        """The greedy actions, (B, A, K) -> (B,)."""
        return categorical.greedy(outputs, self.support)

    def _expected(self, outputs: torch.Tensor) -> torch.Tensor:
        """Q(s, .) out of what the network says, (B, A, K) -> (B, A)."""
        return categorical.expectation(outputs.softmax(-1), self.support)

    def _probs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Masses on the support, (B, A, K), out of what the network says."""
        return outputs.softmax(-1)

    # Phases 2 and 3

    def answer(self, features: Features) -> np.ndarray:
        """Z at each (s, a) of `features`, (N, K), or softmax(Q / tau) at each s, (N, A): float32 masses.

        Raises:
            NonFiniteError: a mass is not finite; nothing non-finite is ever sent.
        """
        target = self.speak_net == "target"
        if self.temperature is None:
            return finite_answer(self._masses_at(features, target=target))
        values = torch.from_numpy(self._values(features.obs, target=target))
        return finite_answer((values / self.temperature).softmax(-1).numpy())

    def _masses_at(self, features: Features, *, target: bool) -> np.ndarray:
        """Masses of either network at (s, a), (N, K)."""
        masses = self._masses(features.obs, target=target)
        return np.asarray(masses[np.arange(len(features.action)), features.action])

    @names_batch
    def mimic(self, lesson: Lesson) -> Metrics:
        """One step on Eq. 6, of values or of policies; the teacher is held constant.

        Raises:
            NonFiniteError: the loss is not finite.
        """
        tau = self.temperature
        metrics = self._follow_kl(lesson) if tau is None else self._follow_policy(lesson, tau)
        self.digests += 1
        return metrics

    def _follow_policy(self, lesson: Lesson, temperature: float) -> Metrics:
        values = self._expected(self.net(self._obs(lesson.features.obs)))
        loss = distillation.peer_loss(self._tensor(lesson.target), values / temperature)
        norm = self.digest_stepper.step(loss)
        return {"distill_loss": float(loss.detach()), "digest_grad_norm": norm}

    def _follow_kl(self, lesson: Lesson) -> Metrics:
        logits = self._at(lesson.features.obs, lesson.features.action)
        loss = distillation.peer_loss(self._tensor(lesson.target), logits)
        norm = self.digest_stepper.step(loss)
        return {"distill_loss": float(loss.detach()), "digest_grad_norm": norm}

    def values(self, features: Features) -> np.ndarray:
        """The expected value at each (s, a) of `features`, (N,), by the online network."""
        values = self._values(features.obs, target=False)
        return np.asarray(values[np.arange(len(features.action)), features.action])

    def distributions(self, obs: np.ndarray) -> np.ndarray:
        """Z(s, .) of the online network: (N, *obs) -> (N, A, K) float32, for Fig. 5."""
        return self._masses(obs, target=False)

    @torch.no_grad()
    def _masses(self, obs: np.ndarray, *, target: bool) -> np.ndarray:
        outputs = (self.target_net if target else self.net)(self._obs(obs))
        masses: np.ndarray = self._probs(outputs).cpu().numpy()
        return masses

    @torch.no_grad()
    def _values(self, obs: np.ndarray, *, target: bool) -> np.ndarray:
        """Q(s, .), (N, A)."""
        outputs = (self.target_net if target else self.net)(self._obs(obs))
        values: np.ndarray = self._expected(outputs).cpu().numpy()
        return values

    # Checkpoints

    def state(self) -> State:
        """Raises NonFiniteError if a weight is not finite: nothing non-finite is ever saved."""
        require_finite(self.flat, self.target_flat)
        return {
            "frames": self.frames,
            "revisits": self.revisits,
            "digests": self.digests,
            "weights": self.weights(),
            "target_weights": self.target_flat.copy(),
            "revisit_stepper": self.revisit_stepper.state(),
            "digest_stepper": self.digest_stepper.state(),
            "replay": self.replay.state(),
            "explore_rng": self.explore_rng.bit_generator.state,
            "noise_rng": self.noise.rng.bit_generator.state,
        }

    def weights(self) -> np.ndarray:
        """A copy of the online network's parameters, (P,) float32."""
        return self.flat.copy()

    def load_weights(self, state: State) -> None:
        """Only the networks of a saved state: enough to play. Raises ValueError if they are of another shape."""
        self.flat.take(state["weights"], "weights")
        self.target_flat.take(state["target_weights"], "target_weights")

    def load_state(self, state: State) -> None:
        self.load_weights(state)
        self.frames, self.revisits, self.digests = state["frames"], state["revisits"], state["digests"]
        self.revisit_stepper.load_state(state["revisit_stepper"])
        self.digest_stepper.load_state(state["digest_stepper"])
        self.replay.load_state(state["replay"])
        self.explore_rng.bit_generator.state = state["explore_rng"]
        self.noise.rng.bit_generator.state = state["noise_rng"]

    # Private

    def _epsilon_greedy(self, obs: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
        if rng.random() < epsilon:
            return int(rng.integers(self.spec.num_actions))
        return self._greedy(obs)

    @torch.no_grad()
    def _greedy(self, obs: np.ndarray) -> int:
        return int(self._best(self.net(self._obs(obs[None]))))

    def _copy_target(self) -> None:
        with torch.no_grad():
            self.target_flat.values.copy_(self.flat.values)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return staged(array, self.support.device)

    def _obs(self, obs: np.ndarray) -> torch.Tensor:
        """(N, *obs) in the environment's dtype -> scaled float32 on the learning device."""
        return self._tensor(obs).to(torch.float32) * self._scale
