"""CartPole as `--env.id sleepy:Sleepy-v0`: the same game, but a step takes a while without keeping a core busy."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium

from mpi_ltcr.envs.cartpole import CartPole15


class Sleepy(CartPole15):
    """Equal to CartPole15 in everything but time: `SLEEPY_S` seconds a step."""

    def step(self, action: Any) -> Any:
        time.sleep(float(os.environ.get("SLEEPY_S", "0.02")))
        return super().step(action)


gymnasium.register("Sleepy-v0", "sleepy:Sleepy", max_episode_steps=200)
