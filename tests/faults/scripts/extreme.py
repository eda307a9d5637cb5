"""Environments of unusual size: `extreme:Wide-v0` sees a million numbers and has a thousand actions, `extreme:Short-v0`
ends with its first step, `extreme:Endless-v0` never."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Plain(gymnasium.Env):
    """Nothing to be learned.

    Args:
        seen: numbers of an observation. actions: how many. ends: after so many steps; 0: never.
    """

    def __init__(self, *, seen: int, actions: int, ends: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (seen,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.ends = ends

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        return self._look(), float(action % 2), self.steps == self.ends, False, {}

    def _look(self) -> np.ndarray:
        return np.full(self.observation_space.shape, self.np_random.uniform(-1, 1), np.float32)


for name, sizes in {
    "Wide": {"seen": 1_000_000, "actions": 1000, "ends": 20},
    "Short": {"seen": 4, "actions": 2, "ends": 1},
    "Endless": {"seen": 4, "actions": 2, "ends": 0},
}.items():
    gymnasium.register(f"{name}-v0", "extreme:Plain", kwargs=sizes)
