"""Space Battle as a PettingZoo ParallelEnv: two teams of ships with missiles, fuel and health.

    from mpi_ltcr.envs.space_battle import parallel_env
    env = parallel_env(team_size=2, render_mode="rgb_array")
    observations, infos = env.reset(seed=1)
    observations, rewards, terminations, truncations, infos = env.step({agent: 2 for agent in env.agents})

Names and dicts only: the game is `space_battle_world.World`, which plays many games at once and much faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

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

Observations = dict[str, np.ndarray]
Infos = dict[str, dict[str, Any]]


def parallel_env(*, render_mode: str | None = None, **constants: Any) -> SpaceBattle:
    """The environment under these rules: `constants` are the fields of `Rules`, e.g. team_size=3."""
    return SpaceBattle(rules=constants, render_mode=render_mode)


class SpaceBattle(ParallelEnv[str, np.ndarray, int]):
    """One game between two teams; every ship is an agent.

    Rewards are the team's, in health points: damage dealt minus damage taken. A ship that dies terminates and leaves
    `agents`; its mates play on. When a team is dead everybody terminates; when the fuel is used up, after 200 steps,
    those alive are truncated. `infos` count what each ship did in the step and, at the end, tell the result.

    Args:
        rules: the game's constants, as `Rules` or by name; the defaults if None.
        render_mode: "rgb_array" or None.
    """

    metadata = METADATA

    def __init__(self, *, rules: Rules | Mapping[str, Any] | None = None, render_mode: str | None = None) -> None:
        self.rules = rules_from(rules)
        self.render_mode = render_mode
        self.possible_agents = agent_names(self.rules)
        self.agents: list[str] = []
        self.observation_spaces = {agent: observation_space(self.rules) for agent in self.possible_agents}
        self.action_spaces = {agent: action_space() for agent in self.possible_agents}
        self.world = World(rules=self.rules, rngs=[seeding.np_random(None)[0]])
        self._draw = drawing(render_mode)

    def observation_space(self, agent: str) -> Box:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        return self.action_spaces[agent]

    @property
    def np_random(self) -> np.random.Generator:
        """The only source of randomness: where a game begins. `reset(seed=...)` makes it anew."""
        return self.world.rngs[0]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        """Begin a game. Without a seed the generator goes on where it is; there are no options."""
        self.world.reset(rngs=None if seed is None else [seeding.np_random(seed)[0]])
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, int]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """All living ships act at once; the dicts hold those that lived before.

        Raises RuntimeError after the end, ValueError for an agent that there is not, a living one without an action,
        or an action outside the space. The actions of dead ships are ignored.
        """
        if not self.agents:
            raise RuntimeError("the game is over or was never begun: call reset before the next step")
        outcome = self.world.step(self._collect(actions))
        seen = self._observations()
        ships = {agent: self.possible_agents.index(agent) for agent in self.agents}
        rewards = {a: float(outcome.team_reward[0, ship // self.rules.team_size]) for a, ship in ships.items()}
        terminated = {a: bool(outcome.terminated[0, ship]) for a, ship in ships.items()}
        truncated = {a: bool(outcome.truncated[0, ship]) for a, ship in ships.items()}
        infos = {a: info_of(self.world, outcome, ship) for a, ship in ships.items()}
        self.agents = [a for a in self.agents if not (terminated[a] or truncated[a])]
        return seen, rewards, terminated, truncated, infos

    def _collect(self, actions: Mapping[str, int]) -> np.ndarray:
        """Actions (1, S) int64, in the order of the ships."""
        unknown = [agent for agent in actions if agent not in self.action_spaces]
        if unknown:
            raise ValueError(f"there is no agent {unknown[0]!r}; there are {', '.join(self.possible_agents)}")
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise ValueError(f"an action is missing for {', '.join(missing)}")
        row = np.zeros((1, self.rules.ships), dtype=np.int64)
        for ship, agent in enumerate(self.possible_agents):
            if agent in self.agents:
                row[0, ship] = check_action(self.action_spaces[agent], agent, actions[agent])
        return row

    def _observations(self) -> Observations:
        """What the agents see, a copy for each: learners keep them."""
        seen = self.world.observe()[0]
        return {agent: seen[self.possible_agents.index(agent)].copy() for agent in self.agents}

    def state_cardinality(self) -> int:
        """States of one ship as LTCR section 5.1 counts them: 2.19e13."""
        return self.rules.state_cardinality()

    def render(self) -> np.ndarray:
        """The game as it stands, (height, width, 3) uint8."""
        return draw_or_refuse(self._draw, self.world)

    def close(self) -> None:
        """Nothing to release."""

    def state(self) -> State:
        """All of it, for a checkpoint. (Not PettingZoo's optional global view of the same name.)"""
        return {"world": self.world.state(), "agents": ",".join(self.agents)}

    def load_state(self, state: State) -> None:
        """Go on from there. Raises ValueError for a state of a game under other rules."""
        self.world.load_state(state["world"])
        self.agents = [agent for agent in self.possible_agents if agent in state["agents"].split(",")]
