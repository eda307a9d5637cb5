"""Space Battle for one learner, as a Gymnasium environment: team0_0 learns, all the others are played.

from mpi_ltcr.envs.space_battle_solo import register
register()
env = gymnasium.make("mpi_ltcr/SpaceBattle-v0", rules={"team_size": 2}, enemies="scripted")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from mpi_ltcr.envs.opponents import OPPONENTS, Opponent, make_opponent
from mpi_ltcr.envs.space_battle_common import (
    METADATA,
    action_space,
    agent_names,
    check_action,
    draw_or_refuse,
    drawing,
    info_of,
    observation_space,
)
from mpi_ltcr.envs.space_battle_rules import Rules, rules_from
from mpi_ltcr.envs.space_battle_world import World
from mpi_ltcr.interfaces import State

ENV_ID = "mpi_ltcr/SpaceBattle-v0"
_LEARNER = 0


def register() -> None:
    """Make the solo game known to `gymnasium.make` under ENV_ID; harmless to repeat."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(id=ENV_ID, entry_point=f"{__name__}:SpaceBattleSolo")


class SpaceBattleSolo(gymnasium.Env[np.ndarray, np.int64]):
    """One ship's game: reward, observation, actions and end are those of team0_0 in `SpaceBattle`.

    Args:
        mates, enemies: who plays the others: a name that needs no policies, or an `Opponent`.
        rules: the game's constants, as `Rules` or by name; the defaults if None.
        render_mode: "rgb_array" or None.
    """

    metadata = METADATA

    def __init__(
        self,
        *,
        mates: str | Opponent = "random",
        enemies: str | Opponent = "random",
        rules: Rules | Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.rules = rules_from(rules)
        self.render_mode = render_mode
        self.observation_space = observation_space(self.rules)
        self.action_space = action_space()
        self._mates, self._enemies = self._team("mates", mates), self._team("enemies", enemies)
        self._draw = drawing(render_mode)
        self._playing = False
        self.world = World(rules=self.rules, rngs=[self.np_random])

    def _team(self, field: str, who: str | Opponent) -> Opponent:
        if isinstance(who, str):
            return make_opponent(who, rules=self.rules)
        if not hasattr(who, "act"):
            raise ValueError(f"{field}: {who!r} is no opponent; there are {', '.join(OPPONENTS)}")
        return who

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game. Opponents get generators of their own, made from this environment's."""
        super().reset(seed=seed, options=options)
        self.world.reset(rngs=[self.np_random])
        for team in (self._mates, self._enemies):
            team.reset(np.random.default_rng(int(self.np_random.integers(2**63))))
        self._playing = True
        return self._observe(), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of all ships. RuntimeError after the end, ValueError for an action outside the space."""
        if not self._playing:
            raise RuntimeError("the game is over or was never begun: call reset before the next step")
        n = self.rules.team_size
        actions = np.empty((1, self.rules.ships), dtype=np.int64)
        actions[0, _LEARNER] = check_action(self.action_space, agent_names(self.rules)[_LEARNER], action)
        if n > 1:
            actions[0, 1:n] = self._mates.act(self._seen[1:n])
        actions[0, n:] = self._enemies.act(self._seen[n:])
        outcome = self.world.step(actions)
        terminated, truncated = bool(outcome.terminated[0, _LEARNER]), bool(outcome.truncated[0, _LEARNER])
        self._playing = not (terminated or truncated)
        reward = float(outcome.team_reward[0, 0])
        return self._observe(), reward, terminated, truncated, info_of(self.world, outcome, _LEARNER)

    def _observe(self) -> np.ndarray:
        """What the learner sees, a copy; what all see is kept for the opponents' next move."""
        self._seen = self.world.observe()[0]
        return self._seen[_LEARNER].copy()

    def render(self) -> np.ndarray:
        """The game as it stands, (height, width, 3) uint8."""
        return draw_or_refuse(self._draw, self.world)

    def state(self) -> State:
        """All of it, for a checkpoint; opponents with their generators, but without the policies they were handed."""
        return {
            "world": self.world.state(),
            "playing": self._playing,
            "mates": self._mates.state(),
            "enemies": self._enemies.state(),
        }

    def load_state(self, state: State) -> None:
        """Go on from there. Raises ValueError for a state of a game under other rules."""
        self.world.load_state(state["world"])
        self._mates.load_state(state["mates"])
        self._enemies.load_state(state["enemies"])
        self._playing = bool(state["playing"])
        self._seen = self.world.observe()[0]
