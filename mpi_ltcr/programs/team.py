"""A whole team of Space Battle that plays again, in one process: every agent of a run, and whom it meets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mpi_ltcr import assembly, envs, rivals
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.assembly_agents import build_agent
from mpi_ltcr.config import Config, ConfigError
from mpi_ltcr.envs.opponents import Frozen, Opponent, make_opponent, parse_opponent
from mpi_ltcr.envs.space_battle_match import match
from mpi_ltcr.envs.space_battle_rules import Rules
from mpi_ltcr.interfaces import EnvSpec, Episode, Policy, State
from mpi_ltcr.seeds import TEAM, SeedTree


class Team(NamedTuple):
    """Agents that were trained together, and the enemies of their games."""

    name: str
    rules: Rules
    players: Sequence[Callable[[np.random.Generator], Policy]]
    """For each ship: the evaluated policy of its agent, drawing from a generator."""
    enemies: Callable[[], Opponent]
    """Made anew for each game."""

    def play(self, seeds: SeedTree, number: int, look: Callable[[Any], object]) -> list[Episode]:
        """Game `number`, as each ship of the team experienced it; `look` sees the world after each step."""
        generators = (seeds.generator(ship, "eval_policy", number) for ship in range(len(self.players)))
        crew = [player(rng) for player, rng in zip(self.players, generators, strict=True)]
        rng = seeds.generator(TEAM, "eval_env", number)
        return match(self.rules, rng, home=Frozen(policies=crew), away=self.enemies(), look=look)


def load_team(config: Config, run: RunDirectory, enemies: str | None) -> Team:
    """All agents of a run at its newest whole checkpoint.

    Args:
        enemies: whom they meet; None: those of their training.

    Raises:
        CheckpointError: nothing usable. ConfigError: such enemies cannot play here.
    """
    folder, _ = checkpoint.newest_whole(run.checkpoints)
    size = checkpoint.read_manifest(folder)["world_size"]
    states = [checkpoint.load_file(folder / checkpoint.rank_file(ship)) for ship in range(size)]
    env = envs.make(config.env.id, rivals.without_policies(config.env))
    spec = envs.spec_of(config.env.id, env)
    players = []
    for ship, state in enumerate(states):
        agent = build_agent(config, spec, ship, torch.device("cpu"), eval_epsilon=config.eval.epsilon)
        agent.load_weights(state["agent"])
        players.append(agent.player)
    rules: Rules = env.unwrapped.rules  # type: ignore[attr-defined]
    away = _enemies(config, enemies, rules, spec, states)
    return Team(f"team of {size} at {folder.name}", rules, players, away)


def _enemies(
    config: Config, asked: str | None, rules: Rules, spec: EnvSpec, states: list[State]
) -> Callable[[], Opponent]:
    """How the enemies of a game are made."""
    own = str(config.env.kwargs.get("enemies", "random"))
    name = own if asked is None else asked
    env = dataclasses.replace(config.env, kwargs={**config.env.kwargs, "enemies": name})
    try:
        found = rivals.find(dataclasses.replace(config, env=env))
        if found is None:
            make_opponent(name, rules=rules)  # there is one, or it is refused
    except ValueError as error:
        raise ConfigError(str(error) if asked is None else f"--enemies: {error}") from None
    if found is None:
        return lambda: make_opponent(name, rules=rules)
    if asked is not None and found.folder is not None:
        ships = range(rules.team_size)
        frozen = [assembly.build_snapshots(found, spec, ship, lambda: np.empty(0))[0] for ship in ships]
        return lambda: Frozen(policies=frozen)
    if found.folder is None and parse_opponent(own)[0] != "selfplay":
        raise ConfigError("--enemies: selfplay needs past selves of the team; this one was trained without any")
    crews = Crews(found.config, spec, found.size, [state["loop"]["snapshots"]["weights"] for state in states])
    return lambda: make_opponent("selfplay", policies=crews)


class Crews(Sequence[list[Policy]]):
    """The teams of a run's saved snapshots, oldest first; policies are made when one is asked for.

    Args:
        size: agents that there were; 0: one for each ship.
        weights: of each ship, (count, P).
    """

    def __init__(self, config: Config, spec: EnvSpec, size: int, weights: list[np.ndarray]) -> None:
        self._config, self._spec, self._size, self._weights = config, spec, size, weights

    def __len__(self) -> int:
        return min(len(one) for one in self._weights)

    def __getitem__(self, index: Any) -> Any:
        return [
            assembly.build_guest(self._config, self._spec, 0 if self._size == 1 else ship, one[index])
            for ship, one in enumerate(self._weights)
        ]
