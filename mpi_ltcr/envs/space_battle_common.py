"""What both faces of Space Battle share, the team game and the solo game: spaces, infos and the choice to draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from mpi_ltcr.envs.space_battle_rules import ACTIONS, EVENTS, OWN_FEATURES, Rules
from mpi_ltcr.envs.space_battle_world import Outcome, World

METADATA: dict[str, Any] = {
    "name": "space_battle_v0",
    "render_modes": ["rgb_array"],
    "render_fps": 10,
    "is_parallelizable": True,
}

Draw = Callable[[World], np.ndarray]
"""A picture (height, width, 3) uint8 of the world's first game."""


def agent_names(rules: Rules) -> list[str]:
    """team0_0 ... team0_{n-1}, team1_0 ...: the ships of a world in their order."""
    return [f"team{team}_{ship}" for team in (0, 1) for ship in range(rules.team_size)]


def observation_space(rules: Rules) -> Box:
    """Fractions in [0, 1], relative thetas in [-1, 1]. See space_battle_view.observe."""
    low = np.zeros(rules.observation_size, dtype=np.float32)
    low[OWN_FEATURES + 2 :: 4] = -1.0
    return Box(low, np.ones_like(low), dtype=np.float32)


def action_space() -> Discrete:
    """0 ccw, 1 cw, 2 move, 3 fire."""
    return Discrete(len(ACTIONS))


def check_action(space: Space, agent: str, action: Any) -> int:
    """The action as an int. Raises ValueError for one outside the space."""
    if not space.contains(action):
        names = ", ".join(f"{code} {name}" for code, name in enumerate(ACTIONS))
        raise ValueError(f"{agent}: action {action!r} is none of {names}")
    return int(action)


def info_of(world: World, outcome: Outcome, ship: int) -> dict[str, Any]:
    """This step's events of one ship by name; with the game's last step also its team's result and final score."""
    info: dict[str, Any] = dict(zip(EVENTS, outcome.events[0, ship].tolist(), strict=True))
    if outcome.over[0]:
        score = int(world.score()[0, ship // world.rules.team_size])
        info["result"] = "win" if score > 0 else "loss" if score < 0 else "draw"
        info["score"] = score
    return info


def drawing(render_mode: str | None) -> Draw | None:
    """How to draw in this mode; None for no drawing at all. ValueError for a mode that there is not."""
    if render_mode is None:
        return None
    if render_mode not in METADATA["render_modes"]:
        raise ValueError(
            f"render_mode must be one of {', '.join(METADATA['render_modes'])} or None, got {render_mode!r}"
        )
    from mpi_ltcr.envs.space_battle_render import draw  # needs pillow: only who draws must have it

    return draw


def draw_or_refuse(draw: Draw | None, world: World) -> np.ndarray:
    """The picture. RuntimeError where none was asked for when the environment was made."""
    if draw is None:
        raise RuntimeError('nothing to render: make the environment with render_mode="rgb_array"')
    return draw(world)
