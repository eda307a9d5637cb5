"""The meeting of one agent and one environment: the loop as a generator, evaluation, episode accounting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import gymnasium
import numpy as np

from mpi_ltcr.interfaces import (
    Actor,
    Episode,
    Features,
    Life,
    Loop,
    Policy,
    Rollout,
    RolloutActor,
    State,
    Step,
    Transition,
)


class Score:
    """What an episode has brought so far, of the whole game and of each life.

    Args:
        info: of the reset; its "lives" is 0, or missing, where the game counts none.
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self.value, self.length = 0.0, 0
        self.lives: list[Life] = []
        self._left = int(info.get("lives", 0))
        self._counted = self._left > 0
        self._begun = (0.0, 0)

    def add(self, reward: float, info: dict[str, Any], *, over: bool) -> None:
        """One step; `over`: the episode ends with it."""
        self.value += reward
        self.length += 1
        left = int(info.get("lives", 0))
        if self._counted and (left < self._left or over):
            value, length = self._begun
            self.lives.append(Life(self.value - value, self.length - length))
            self._begun = (self.value, self.length)
        self._left = left

    def episode(self, *, truncated: bool) -> Episode:
        """The finished episode."""
        return Episode(self.value, self.length, truncated, lives=tuple(self.lives))


class EnvLoop:
    """An environment between two steps.

    Each episode is reset with a seed of its own, a function of its number alone. A state of the loop is therefore the
    number of the running episode and its actions so far: replaying them restores any deterministic environment
    exactly, also one that cannot be copied (an emulator).

    A lost life that the environment reports (``info["life_lost"]``, Atari's `episodic_life`) is a discount of 0 and no
    more: the game goes on, and so do its frames.

    Args:
        seed_of: number of the episode -> seed of its reset.
        discount: gamma, the discount of a step that is no termination.
        reward_scale: what the learner sees is reward * reward_scale,
        reward_clip: cut to [-reward_clip, reward_clip]; 0: never cut.
        after_step: called after each step; whoever shares the process may do some work there.
    """

    def __init__(
        self,
        *,
        env: gymnasium.Env,
        seed_of: Callable[[int], int],
        discount: float,
        reward_scale: float = 1.0,
        reward_clip: float = 0.0,
        after_step: Callable[[], object] = lambda: None,
    ) -> None:
        self.env, self.seed_of, self.after_step = env, seed_of, after_step
        self.discount, self.reward_scale = float(discount), float(reward_scale)
        self.reward_clip = float(reward_clip) or math.inf
        self.frames = 0
        self.promise = Promise(env)
        self._start(0)

    def _start(self, episode: int) -> None:
        self.episode = episode
        self.actions: list[int] = []
        obs, info = self.env.reset(seed=self.seed_of(episode))
        self.score = Score(info)
        self.obs = self._checked(obs, 0.0)

    def steps(self, agent: Actor) -> Iterator[Step]:
        """Let `agent` act and observe for ever; cut with ``islice``.

        Raises:
            ValueError: the environment returned a reward that is not finite, or an observation outside its space; the
                text names episode and step. What the environment itself raises is passed on with a note that does so.
        """
        while True:
            transition, ended = self.play(agent.act(self.obs))
            agent.observe(transition)
            yield Step(transition, ended)

    def play(self, action: int) -> tuple[Transition, Episode | None]:
        """One step, of somebody who has seen `obs`. Raises ValueError like `steps`."""
        transition, ended = self._advance(action)
        self.after_step()
        return transition, ended

    def _advance(self, action: int) -> tuple[Transition, Episode | None]:
        before = self.obs
        self.actions.append(action)
        try:
            next_obs, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            _name_place(error, self._place)
            raise
        reward = float(reward)
        next_obs = self._checked(next_obs, reward)
        over = bool(terminated or truncated)
        self.score.add(reward, info, over=over)
        self.frames += 1
        lost = terminated or info.get("life_lost", False)  # a truncation bootstraps
        seen = min(max(reward * self.reward_scale, -self.reward_clip), self.reward_clip)
        transition = Transition(before, action, seen, 0.0 if lost else self.discount, next_obs, over)
        self.obs = next_obs
        if not over:
            return transition, None
        ended = self.score.episode(truncated=not terminated)
        self._start(self.episode + 1)
        return transition, ended

    def _checked(self, obs: np.ndarray, reward: float) -> np.ndarray:
        """A copy, because an environment may write its next observation into the same array."""
        self.promise.check(obs, reward, self._place)
        return obs.copy()

    def _place(self) -> str:
        return f"env.id: episode {self.episode}, step {len(self.actions)}"

    def state(self) -> State:
        return {"frames": self.frames, "episode": self.episode, "actions": np.array(self.actions, np.int64)}

    def load_state(self, state: State) -> None:
        self._start(state["episode"])
        for action in state["actions"]:
            self._advance(int(action))
        self.frames = state["frames"]


class Promise:
    """What an environment promises of its observations, by their space; and that they and its rewards are finite."""

    def __init__(self, env: gymnasium.Env) -> None:
        space: Any = env.observation_space
        self.shape, self.dtype = space.shape, space.dtype
        self.bounds = None
        if self.dtype.kind == "f":  # (integers are bytes of pictures, whose bounds are those of their type)
            most = np.finfo(self.dtype).max
            self.bounds = np.maximum(space.low, -most), np.minimum(space.high, most)

    def check(self, obs: np.ndarray, reward: float, place: Callable[[], str]) -> None:
        """Raise ValueError, its text beginning with the place, unless this step is as promised."""
        if not math.isfinite(reward):
            raise ValueError(f"{place()}: reward is {reward}; rewards must be finite")
        if not (isinstance(obs, np.ndarray) and obs.shape == self.shape and obs.dtype == self.dtype):
            kind = f"{obs.shape} {obs.dtype}" if isinstance(obs, np.ndarray) else type(obs).__name__
            raise ValueError(f"{place()}: observation is {kind}; its space says {self.shape} {self.dtype}")
        if self.bounds and not ((self.bounds[0] <= obs) & (obs <= self.bounds[1])).all():
            what = "outside its space" if np.isfinite(obs).all() else "not finite"
            raise ValueError(f"{place()}: observation is {what}: {obs}")


def _name_place(error: Exception, place: Callable[[], str]) -> None:
    """Note where an environment failed. (Python 3.10 has no notes.)"""
    if hasattr(error, "add_note"):
        error.add_note(f"{place()}: the environment raised {type(error).__name__}: {error}")


def explore(loop: Loop, agent: Actor, frames: int) -> tuple[Features, list[Episode]]:
    """Phase 1: `frames` steps into private experience; the (s, a) met on the way, and the episodes that ended."""
    steps = list(islice(loop.steps(agent), frames))
    met = [step.transition for step in steps if step.transition is not None]
    obs = np.stack([t.obs for t in met]) if met else np.empty((0, 0))
    actions = np.array([t.action for t in met], np.int64)
    return Features(obs, actions), [step.ended for step in steps if step.ended]


def explore_rollout(games: Sequence[EnvLoop], agent: RolloutActor, length: int) -> tuple[Rollout, list[Episode]]:
    """Algorithm 1, lines 6 to 15: up to `length` steps of one episode in each game, and the episodes that ended.

    A game whose episode has ended waits for the others: a rollout ends with its episode, in one game as in several.
    """
    playing, ended = list(games), []
    for _ in range(length):
        actions = agent.act([game.obs for game in playing])
        turns = [game.play(action) for game, action in zip(playing, actions, strict=True)]
        agent.observe([transition for transition, _ in turns])
        ended += [episode for _, episode in turns if episode]
        playing = [game for game, (_, episode) in zip(playing, turns, strict=True) if not episode]
        if not playing:
            break
    return agent.finish(), ended


def evaluate(env: gymnasium.Env, policy: Policy, seed: int, look: Callable[[], object] = lambda: None) -> Episode:
    """One whole episode of `policy` in an environment of its own. Raises ValueError like `EnvLoop.steps`.

    Args:
        look: called at the beginning and after each step, e.g. to film it.
    """
    obs, info = env.reset(seed=seed)
    look()
    score, promise = Score(info), Promise(env)

    def place() -> str:
        return f"env.id: evaluation with seed {seed}, step {score.length}"

    while True:
        action = policy(obs)
        try:
            obs, reward, terminated, truncated, info = env.step(action)
        except Exception as error:
            _name_place(error, place)
            raise
        score.add(float(reward), info, over=terminated or truncated)
        look()
        promise.check(obs, score.value, place)
        if terminated or truncated:
            return score.episode(truncated=not terminated)


def random_features(env: gymnasium.Env, rng: np.random.Generator, count: int) -> Features:
    """`count` (s, a) of uniformly random play: a set that is the same for every agent and run of a seed."""
    observations: list[np.ndarray] = []
    actions = rng.integers(env.action_space.n, size=count)  # type: ignore[attr-defined]
    over = True
    for action in actions:
        if over:
            obs, _ = env.reset(seed=int(rng.integers(2**31)))
        observations.append(np.array(obs))
        obs, _, terminated, truncated, _ = env.step(int(action))
        over = terminated or truncated
    return Features(np.stack(observations), actions)
