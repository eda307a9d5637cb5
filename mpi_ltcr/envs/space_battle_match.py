"""One whole game of Space Battle between two crews in one process, and what a game was in a ship's eyes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpi_ltcr.envs.opponents import Opponent
from mpi_ltcr.envs.space_battle_rules import EVENTS, FIRE, Rules
from mpi_ltcr.envs.space_battle_world import World
from mpi_ltcr.interfaces import Battle, Episode


def match(
    rules: Rules,
    rng: np.random.Generator,
    *,
    home: Opponent,
    away: Opponent,
    look: Callable[[World], object] = lambda world: None,
) -> list[Episode]:
    """A game of `home` as team 0 against `away`; how it went for each ship of `home`.

    The game that teammates play in lockstep with the same `rng` and the same policies.

    Args:
        look: called at the beginning and after each step.
    """
    n = rules.team_size
    world = World(rules=rules, rngs=[rng])
    world.reset()
    for team in (away, home):
        team.reset(np.random.default_rng(int(rng.integers(2**63))))
    look(world)
    while not world.over[0]:
        seen = world.observe()[0]
        world.step(np.concatenate([home.act(seen[:n]), away.act(seen[n:])])[None])
        look(world)
    return [episode_of(world, 0, ship) for ship in range(n)]


def episode_of(world: World, game: int, ship: int) -> Episode:
    """What a finished game was for this ship: its team's return, and what it did itself."""
    team, tally = ship // world.rules.team_size, world.tally[game, ship]
    score = int(world.score()[game, team])
    counts = dict(zip(EVENTS, tally.tolist(), strict=True))
    acted = max(1, int(tally[: FIRE + 1].sum()))
    battle = Battle(
        result=int(np.sign(score)),
        shots=counts["shots"],
        enemy_hits=counts["enemy_hits"],
        friend_hits=counts["friend_hits"],
        hits_taken=counts["hits_taken"],
        rams=counts["rams"],
        fire_fraction=counts["fire"] / acted,
        lived=acted,
    )
    truncated = bool(world.health[game].reshape(2, -1).sum(axis=1).all())
    return Episode(float(score), int(world.time[game]), truncated, battle)
