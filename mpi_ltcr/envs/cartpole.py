"""CartPole as LTCR section 4.1 describes it: the game ends at 15 degrees, at 2.4 units or after 200 frames."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class CartPole15(CartPoleEnv):
    """Gymnasium's CartPole with another angle limit.

    The code of gym has always ended at 12 degrees; the paper repeats the 15 of gym's web page. Results are comparable
    only within one limit. The 200 frames are a truncation: the registered TimeLimit counts them.

    Args:
        angle_limit_deg: the pole's largest angle in degrees; 12 is the stock game.
    """

    def __init__(self, *, angle_limit_deg: float = 15.0, **kwargs: Any) -> None:
        if not 0 < angle_limit_deg < 90:
            raise ValueError(f"angle_limit_deg: {angle_limit_deg} is no angle at which a pole can fall; take 15 or 12")
        super().__init__(**kwargs)
        self.theta_threshold_radians = math.radians(angle_limit_deg)
        fastest = np.finfo(np.float32).max
        high = np.array([2 * self.x_threshold, fastest, 2 * self.theta_threshold_radians, fastest], np.float32)
        self.observation_space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
