"""Environments that only tests need. Gymnasium imports this file for an id such as `toy_envs:Mortal-v0`, on every rank
whose PYTHONPATH holds this folder.

    Threeway-v0   CartPole with a third action, which does nothing: another number of actions, the same observations
    Mortal-v0      CartPole that ends its own process at a step, once: kwargs {at: 250, mark: FILE, signal: 9};
                   {pause: 0.01} are seconds that each step takes; {after: PATTERN} lets it live until there is such a
                   file, {meet: FOLDER} lets two of them wait for each other after their first episode
    Blind-v0       CartPole without the velocities: other observations
"""

from __future__ import annotations

import glob
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from mpi_ltcr.envs.cartpole import CartPole15


class CartPole3(CartPole15):
    """Actions: left, nothing, right."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.full_force = self.force_mag

    def step(self, action: int) -> Any:
        self.force_mag = 0.0 if action == 1 else self.full_force
        return super().step(int(action == 2))


def wait_for(pattern: str, files: int) -> None:
    """At most as long as a job of a test may take."""
    end = time.monotonic() + 60
    while len(glob.glob(pattern)) < files and time.monotonic() < end:
        time.sleep(0.005)


class Mortal(CartPole15):
    """Sends its process a signal at step `at` of all its episodes, unless the file `mark` is there; it makes that."""

    def __init__(
        self, *, at: int = -1, mark: str = "", signal: int = 9, pause: float = 0.0, after: str = "", meet: str = "",
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.at, self.mark, self.signal, self.pause = at, Path(mark), signal, pause
        self.after, self.meet = after, meet
        self.steps = self.resets = 0

    def reset(self, **kwargs: Any) -> Any:
        self.resets += 1
        if self.meet and self.resets == 2:
            (Path(self.meet) / str(os.getpid())).touch()
            wait_for(f"{self.meet}/*", 2)
        return super().reset(**kwargs)

    def step(self, action: int) -> Any:
        self.steps += 1
        if self.steps == self.at and not self.mark.exists():
            self.mark.touch()
            if self.after:
                wait_for(self.after, 1)
            os.kill(os.getpid(), self.signal)
        time.sleep(self.pause)
        return super().step(action)


class Blind(CartPole15):
    """Sees only where the cart is and how the pole stands."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        space = self.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2], dtype=np.float32)

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return obs[::2], info

    def step(self, action: int) -> Any:
        obs, *rest = super().step(action)
        return obs[::2], *rest


for name, maker in {"Threeway-v0": CartPole3, "Mortal-v0": Mortal, "Blind-v0": Blind}.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=maker, max_episode_steps=200)
