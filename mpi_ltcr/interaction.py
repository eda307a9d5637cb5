"""The meeting of one agent and one environment: the loop as a generator, evaluation, episode accounting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import gymnasium
import numpy as np

from mpi_ltcr.interfaces import Agent, Features, Policy, State, Transition


class Episode(NamedTuple):
    """A finished episode, in the environment's own reward."""

    value: float
    """Undiscounted return."""
    length: int
    truncated: bool


class Step(NamedTuple):
    """What one turn of the loop hands out: the experience, and the episode that it ended, if any."""

    transition: Transition
    ended: Episode | None


class EnvLoop:
    """An environment between two steps.

    Each episode is reset with a seed of its own, a function of its number alone. A state of the loop is therefore the
    number of the running episode and its actions so far: replaying them restores any deterministic environment
    exactly, also one that cannot be copied (an emulator).

    Args:
        seed_of: number of the episode -> seed of its reset.
        discount: gamma, the discount of a step that is no termination.
        reward_scale: what the learner sees is reward * reward_scale.
    """

    def __init__(
        self, *, env: gymnasium.Env, seed_of: Callable[[int], int], discount: float, reward_scale: float = 1.0
    ) -> None:
        self.env, self.seed_of = env, seed_of
        self.discount, self.reward_scale = float(discount), float(reward_scale)
        self.frames = 0
        self._start(0)

    def _start(self, episode: int) -> None:
        self.episode = episode
        self.obs, _ = self.env.reset(seed=self.seed_of(episode))
        self.actions: list[int] = []
        self.value = 0.0

    def steps(self, agent: Agent) -> Iterator[Step]:
        """Let `agent` act and observe for ever; cut with ``islice``.

        Raises:
            ValueError: the environment returned a reward that is not finite, or an observation outside its space's
                shape or dtype; the text names episode and step.
        """
        while True:
            step = self._advance(agent.act(self.obs))
            agent.observe(step.transition)
            yield step

    def _advance(self, action: int) -> Step:
        before = self.obs
        next_obs, reward, terminated, truncated, _ = self.env.step(action)
        reward = float(reward)
        self._check(next_obs, reward)
        self.actions.append(action)
        self.value += reward
        self.frames += 1
        discount = 0.0 if terminated else self.discount  # a truncation bootstraps
        transition = Transition(before, action, reward * self.reward_scale, discount, next_obs)
        self.obs = next_obs
        if not (terminated or truncated):
            return Step(transition, None)
        ended = Episode(self.value, len(self.actions), not terminated)
        self._start(self.episode + 1)
        return Step(transition, ended)

    def _check(self, obs: np.ndarray, reward: float) -> None:
        space = self.env.observation_space
        where = f"env.id: episode {self.episode}, step {len(self.actions) + 1}"
        if not np.isfinite(reward):
            raise ValueError(f"{where}: reward is {reward}; rewards must be finite")
        if not (isinstance(obs, np.ndarray) and obs.shape == space.shape and obs.dtype == space.dtype):
            kind = f"{obs.shape} {obs.dtype}" if isinstance(obs, np.ndarray) else type(obs).__name__
            raise ValueError(f"{where}: observation is {kind}; its space says {space.shape} {space.dtype}")
        if obs.dtype.kind == "f" and not np.isfinite(obs).all():
            raise ValueError(f"{where}: observation is not finite: {obs}")

    def state(self) -> State:
        return {"frames": self.frames, "episode": self.episode, "actions": np.array(self.actions, np.int64)}

    def load_state(self, state: State) -> None:
        self._start(state["episode"])
        for action in state["actions"]:
            self._advance(int(action))
        self.frames = state["frames"]


def explore(loop: EnvLoop, agent: Agent, frames: int) -> tuple[Features, list[Episode]]:
    """Phase 1: `frames` steps into private experience; the (s, a) met on the way, and the episodes that ended."""
    steps = list(islice(loop.steps(agent), frames))
    obs = np.stack([step.transition.obs for step in steps])
    actions = np.array([step.transition.action for step in steps], np.int64)
    return Features(obs, actions), [step.ended for step in steps if step.ended]


def evaluate(env: gymnasium.Env, policy: Policy, seed: int) -> Episode:
    """One whole episode of `policy` in an environment of its own."""
    obs, _ = env.reset(seed=seed)
    value, length = 0.0, 0
    while True:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        value += float(reward)
        length += 1
        if terminated or truncated:
            return Episode(value, length, not terminated)


def random_features(env: gymnasium.Env, rng: np.random.Generator, count: int) -> Features:
    """`count` (s, a) of uniformly random play: a set that is the same for every agent and run of a seed."""
    observations: list[np.ndarray] = []
    actions = rng.integers(env.action_space.n, size=count)  # type: ignore[attr-defined]
    over = True
    for action in actions:
        if over:
            obs, _ = env.reset(seed=int(rng.integers(2**31)))
        observations.append(obs)
        obs, _, terminated, truncated, _ = env.step(int(action))
        over = terminated or truncated
    return Features(np.stack(observations), actions)
